#!/usr/bin/env bash
# All checks in one run: set-up, lint, format, types, tests. Arguments go to pytest: launch/test.sh -k stack
# Every check runs even when an earlier one fails; the exit status is 0 only if all pass.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
exec </dev/null
launch/setup.sh
export PATH=$root/.venv/bin:$PATH
unset FORCE_COLOR TTY_COMPATIBLE # with them, what is piped looks like a terminal's
export OMP_NUM_THREADS=1 # tests start up to four processes; more threads than cores make them wait for each other

failed=()
check() {
    echo "+ $*"
    "$@" || failed+=("'$*'")
}
check ruff check .
check ruff format --check .
check mypy
check pytest -n 2 --dist loadfile "$@" # a file of tests is one worker's: its runs are made once

if ((${#failed[@]})); then
    echo "error: failed: ${failed[*]}" >&2
    exit 1
fi
echo "all checks pass"

#!/usr/bin/env bash
# The tests that need a CUDA device: sets up as launch/test.sh does, then runs `pytest -m gpu`. Arguments go to pytest.
# Without a usable CUDA device nothing would be tested, so it ends with status 2 and says so.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
exec </dev/null
launch/setup.sh
export PATH=$root/.venv/bin:$PATH
export OMP_NUM_THREADS=1

if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: no CUDA device is usable here: run this where nvidia-smi lists one, with INFODCL_FLAVOUR=cuda" >&2
    exit 2
fi
pytest -m gpu "$@"

#!/usr/bin/env bash
# Makes .venv in the repository root with the pinned stack of pyproject.toml, for CPU or GPU; quick when it stands.
#
#   INFODCL_FLAVOUR=cpu|cuda   which builds; else cuda where an NVIDIA driver is present, cpu elsewhere
#   INFODCL_TORCH=2.12|2.11    an older stack than the pinned one: this torch with the fbgemm and torchrec that fit it
#   PYTHON=python3.12          which Python (3.11 or newer); else the first one found
#
# Packages come from wherever pip is set up to look. On PyPI, torch for Linux brings the CUDA libraries even where no
# GPU is; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gets the CPU build instead, which saves gigabytes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/infodcl-stamp
log=$venv/setup.log

fail() {
    echo "error: $*" >&2
    exit 1
}

# step WORDS COMMAND…: says WORDS, keeps the command's output in the log, shows its end if the command fails.
step() {
    echo "setup: $1"
    shift
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        fail "'$*' failed; mend what the lines above say and run this again (whole log: $log)"
    fi
}

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python $0"
}

find_flavour() {
    local flavour=${INFODCL_FLAVOUR:-cpu}
    if [[ -z ${INFODCL_FLAVOUR:-} ]] && { [[ -e /proc/driver/nvidia/version ]] || nvidia-smi; } &>/dev/null; then
        flavour=cuda
    fi
    [[ $flavour == cpu || $flavour == cuda ]] || fail "INFODCL_FLAVOUR is '$flavour'; choose cpu or cuda"
    echo "$flavour"
}

python=$(find_python)
flavour=$(find_flavour)
torch=$(grep "^$flavour = " "$root/pyproject.toml" | grep -o '\btorch==[^"]*')
packages=(--editable ".[$flavour,tune,faiss,dev]")
torchrec=(--group torchrec)
older=${INFODCL_TORCH:-}
if [[ -n $older ]]; then
    case $older in
    2.12) fbgemm=1.7.0 torchrec=(torchrec==1.7.0) ;;
    2.11) fbgemm=1.6.0 torchrec=(torchrec==1.6.1) ;;
    *) fail "INFODCL_TORCH is '$older'; choose 2.12 or 2.11, or leave it out" ;;
    esac
    newest=$(grep -o '[0-9.]*[0-9]' <<<"$torch" | head -n 1)
    torch=${torch//$newest/$older.0}
    build=$([[ $flavour == cpu ]] && echo fbgemm-gpu-cpu || echo fbgemm-gpu)
    packages=("$build==$fbgemm" --editable ".[tune,faiss,dev]") # the extra of this flavour pins the newest
fi
version=$("$python" -c 'import platform; print(platform.python_version())')
# A virtual environment knows its own path, so a moved or copied tree needs a new one.
kind="$flavour $version${older:+ torch $older} $root"
wanted="$kind $(sha256sum <"$root/pyproject.toml")"
stands=$(cat "$stamp" 2>/dev/null || true)
if [[ $stands == "$wanted" ]]; then
    echo "setup: .venv is ready ($flavour, Python $version)"
    exit 0
fi

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    echo "setup: no C++ compiler found; not needed here, unless a package comes without a build for this Python" >&2

# The two flavours share module folders, and a set-up that was cut off may have left anything: those start afresh.
# A finished one whose pins changed, or an environment that somebody made by hand, is brought up to date in place.
if [[ ! -x $venv/bin/python || (-n $stands && $stands != "$kind "*) ]]; then
    rm -rf "$venv"
    mkdir "$venv"
    echo "unfinished" >"$stamp"
    "$python" -m venv "$venv" || fail "$venv could not be made; see above"
fi
echo "unfinished" >"$stamp"
: >"$log"

pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)
echo "setup: .venv for $flavour with Python $version; the first time takes minutes"
cd "$root"
step "pip" "${pip[@]}" install "pip>=25.1" # the first that knows --group
step "$torch" "${pip[@]}" install "$torch"
step "infodcl-dist[$flavour,tune,faiss,dev]" "${pip[@]}" install "${packages[@]}"
step "torchrec" "${pip[@]}" install --no-deps "${torchrec[@]}"
echo "$wanted" >"$stamp"
echo "setup: done in $SECONDS s"

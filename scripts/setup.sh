#!/bin/sh
# Make or update .venv: `make` calls this when constraints.txt or pyproject.toml are newer than the environment.
# LVMZOO_TORCH=cpu|cuda|auto chooses the build of PyTorch; auto takes the CPU's where there is no nvidia-smi.
set -eu
cd "$(dirname "$0")/.."
group="${1:-}"
log=.venv/setup.log

python=""
for candidate in python3.11 python3 python3.12 python3.13; do # the lock was made with 3.11
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then echo "Python 3.11 or newer is needed, and none is on the PATH." >&2; exit 1; fi

say() { if [ -t 2 ]; then printf '\r\033[K%s' "$1" >&2; else printf '%s\n' "$1" >&2; fi; }
began=$(date +%s)
run() {
    if ! "$@" >>"$log" 2>&1; then
        printf '\nSetting up failed in: %s\n' "$*" >&2
        tail -n 15 "$log" >&2
        exit 1
    fi
}

say "Setting up .venv (1/3): Python and uv"
[ -x .venv/bin/python ] || "$python" -m venv .venv
: >"$log"
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install -qq --no-compile"
run $pip -c constraints.txt uv

say "Setting up .venv (2/3): PyTorch"
torch=$(grep '^torch==' constraints.txt)
kind="${LVMZOO_TORCH:-auto}"
if [ "$kind" = auto ]; then if command -v nvidia-smi >/dev/null 2>&1; then kind=cuda; else kind=cpu; fi; fi
index=https://download.pytorch.org/whl/cpu
if ! .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${torch#torch==}')" 2>/dev/null
then
    # pip, not uv: it also looks into the folders of wheels that a machine names in its pip configuration.
    if [ "$kind" = cpu ] && [ "$(uname)" = Linux ] &&
        .venv/bin/python -c "import urllib.request as u; u.urlopen('$index/torch/', timeout=10)" 2>/dev/null
    then run $pip -c constraints.txt "$torch" --extra-index-url "$index"
    else run $pip -c constraints.txt "$torch"; fi
fi

say "Setting up .venv (3/3): everything else"
uv="env VIRTUAL_ENV=.venv .venv/bin/uv pip install -q -c constraints.txt"
run $uv -e '.[data,exchange,sweeps,tensorboard]' --group dev ${group:+--group "$group"}
say "Set up .venv in $(($(date +%s) - began)) s"
[ ! -t 2 ] || echo >&2
touch ".venv/.stamp${group:+-$group}"

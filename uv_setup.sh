#!/usr/bin/env bash
# Makes the virtual environment of this checkout, .venv or VENV. Does nothing when a working one is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${PYTHON:-python3}
venv=${VENV:-.venv}

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi
if ! command -v "$python" >/dev/null; then
    echo "There is no $python here; install Python 3.10 or newer, or set PYTHON to its path." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "$("$python" --version) is too old; set PYTHON to the path of Python 3.10 or newer." >&2
    exit 1
fi

rm -rf "$venv"
if command -v uv >/dev/null; then
    uv venv --quiet --seed --python "$python" "$venv"
    exit 0
fi
if "$python" -m venv "$venv" >/dev/null 2>&1; then
    exit 0
fi
# Debian ships Python without the part that makes environments.
rm -rf "$venv"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    "$python" -m venv "$venv"
    exit 0
fi
echo "$python cannot make a virtual environment; ask an administrator to install python3-venv, or install uv." >&2
exit 1

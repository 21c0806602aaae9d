#!/bin/sh
# Builds .venv for development; needs only Python with venv: scripts/venv.sh [python]
set -eu

python=${1:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; choose one: make PYTHON=python3.13 …" >&2
    exit 1
}
"$python" -c 'import ensurepip' 2>/dev/null || {
    echo "$python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
}

echo "building .venv with $("$python" --version)"
"$python" -m venv --clear .venv
# Dependency groups need pip 25.1 or newer.
.venv/bin/python -m pip install -qq --constraint constraints.txt --upgrade pip
.venv/bin/python -m pip install -qq --constraint constraints.txt --group dev --editable ".[google,metrics,microsoft]"

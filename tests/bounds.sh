#!/usr/bin/env bash
# Unit tests of everything but the trainer, at both ends of what pyproject.toml allows: the lowest
# direct dependencies on the oldest Python, the locked ones on the newest. Called by `make bounds`.
set -euo pipefail
uv=$1 cache=$2

interpreter() { # interpreter VERSION: one on the PATH, or one that pyenv keeps beside it
    "$uv" python find --no-python-downloads "$1" 2>/dev/null ||
        find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -path "*/$1*/bin/python" 2>/dev/null | sort | tail -n 1
}

run() { # run VERSION LOCK
    local python venv="$cache/bounds/$1-$(basename "$2" .txt)"
    python=$(interpreter "$1")
    if [ -z "$python" ]; then
        echo "not run: no Python $1 on this machine"
        return
    fi
    "$uv" venv --quiet --clear --python "$python" "$venv"
    "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --require-hashes -r "$2"
    "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
    echo "Python $1, $2"
    "$venv/bin/pytest" -q -p no:cacheprovider tests/unit/api tests/unit/plan tests/unit/observe \
        tests/unit/handlers tests/unit/cli
}

run 3.11 locks/lowest.txt
run 3.13 locks/unit.txt

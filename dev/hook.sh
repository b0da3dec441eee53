#!/bin/sh
# What the hooks of .pre-commit-config.yaml run: sh dev/hook.sh format
set -eu
cd "$(dirname "$0")/.."
if ! [ -x .venv/bin/python ]; then
    echo "There is no .venv in this clone. Run: make environment" >&2
    exit 1
fi
exec .venv/bin/python -m dev.check "$@"

#!/bin/sh
# Makes .venv fit requirements/dev.txt: in a few milliseconds when it does already, otherwise by
# finding a Python of 3.11 or newer that runs here and handing over to dev/install.py.
set -eu
cd "$(dirname "$0")/.."

# The path belongs to the stamp because a copied or moved .venv still points at its old place;
# importing pip fails when the interpreter behind .venv has vanished or changed its version.
stamp=$(pwd -P && cksum <requirements/dev.txt)
if [ "$(cat .venv/.installed 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c 'import pip' 2>/dev/null
then
    exit 0
fi

if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
else
    set -- python3 python3.14 python3.13 python3.12 python3.11
fi

found=
for candidate do
    # Run, not looked up: a shim may be on PATH and name a version that is not installed.
    version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) ||
        continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        exec "$candidate" -m dev.install "$stamp"
    fi
    found="$found${found:+, }$candidate is $version"
done

echo "Python 3.11 or newer is needed (${found:-of $* none runs}):" \
    "install one, or name it: PYTHON=/path/to/python3 make run" >&2
exit 1

#!/bin/sh
# Makes sure that .venv has the packages of requirements/$1.txt: run.txt for the service and its
# servers, dev.txt for the tests and tools as well, bench.txt for the benchmarks too. If it has them,
# this takes a few milliseconds.
# Otherwise it finds Python 3.11 or newer, which runs dev/install.py.
set -eu
cd "$(dirname "$0")/.."
lock=$1

# The stamp contains the path, because a .venv that was moved or copied still refers to its old path.
stamp_of() { pwd -P && cksum <"requirements/$1.txt"; }
installed=$(cat .venv/.installed 2>/dev/null) || true

# Each lock file contains all of the one before. Importing uv fails when the Python that made .venv
# was removed or replaced.
case $lock in
    run) sufficient="run dev bench" ;;
    dev) sufficient="dev bench" ;;
    *) sufficient=$lock ;;
esac
for one in $sufficient; do
    if [ "$installed" = "$(stamp_of "$one")" ] && .venv/bin/python -c 'import uv' 2>/dev/null; then
        exit 0
    fi
done

if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
else
    set -- python3 python3.14 python3.13 python3.12 python3.11
fi

found=
for candidate do
    # The candidate is run because it may be a shim of a version that is not installed.
    version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) ||
        continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        exec "$candidate" -m dev.install "$lock" "$(stamp_of "$lock")"
    fi
    found="$found${found:+, }$candidate is $version"
done

echo "Python 3.11 or newer is needed (found: ${found:-none of $*})." \
    "Install it, or name it: make run PYTHON=/path/to/python3" >&2
exit 1

#!/bin/sh
# Runs tests/homeassistant in an environment of its own, made the first time: about three minutes and 450 MB
# below build/. Home Assistant runs on a Python of its choice alone; where there is none, this says so and
# is content: $PYTHON_HOMEASSISTANT may point to one.
#
# Usage: homeassistant.sh [install PYTHON]
set -eu

place=build/venv-homeassistant
list=tests/requirements/homeassistant.txt

if [ "${1:-}" = install ]; then
    echo "setup: $place: $("$2" --version) with $list"
    "$2" -m venv --clear "$place"
    # Releases of this year ask for 3.13.2, for a mistake of asyncio that no test here meets.
    exec "$place/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-input --retries 5 \
        --no-compile --no-deps --ignore-requires-python --requirement "$list" </dev/null
fi

fits() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 13))' >/dev/null 2>&1; }

for candidate in ${PYTHON_HOMEASSISTANT:-python3.13 "$HOME"/.pyenv/versions/3.13*/bin/python3}; do
    if fits "$candidate"; then
        sh tests/tools/once.sh "$place/.complete" "$list" "$0" -- sh "$0" install "$candidate"
        exec "$place/bin/python" -m tests.homeassistant
    fi
done
echo 'homeassistant: SKIPPED: there is no Python 3.13 here (PYTHON_HOMEASSISTANT=/path/to/python3.13)'

#!/bin/sh
# Prints the Python to build the virtual environments with: $PYTHON, or the first of the usual names that is
# 3.11 or newer and can make a virtual environment. Says what is missing otherwise.
set -eu

usable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3}; do
    if command -v "$candidate" >/dev/null 2>&1 && usable "$candidate"; then
        command -v "$candidate"
        exit 0
    fi
done
{
    echo "setup: no usable Python: wgrouter needs 3.11 or newer, with venv and ensurepip (Debian: python3-venv)"
    for candidate in ${PYTHON:-python3 /usr/bin/python3}; do
        echo "setup:   $candidate is $("$candidate" --version 2>&1 || echo absent)"
    done
    echo "setup: point to another one with: make PYTHON=/path/to/python3.11 ..."
} >&2
exit 1

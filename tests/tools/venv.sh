#!/bin/sh
# Makes one virtual environment with exactly the packages of one requirements file.
#
# Usage: venv.sh DIRECTORY REQUIREMENTS
set -eu

directory=$1
requirements=$2
python=$(sh "$(dirname "$0")/python.sh")

echo "setup: $directory: $("$python" --version) with $requirements"
# --clear: a half-made environment of an interrupted run, or one of another Python, is not worth repairing.
"$python" -m venv --clear "$directory"
attempt=1
until "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --retries 5 \
    --requirement "$requirements" </dev/null; do
    [ "$attempt" -lt 3 ] || { echo "setup: pip failed $attempt times; see above" >&2; exit 1; }
    attempt=$((attempt + 1))
    sleep 5
done

#!/bin/sh
# Runs a set-up command once for each content of its inputs: a stamp holds their checksum. A lock keeps two
# makes in one tree from doing the same work at the same time.
#
# Usage: once.sh STAMP INPUT... -- COMMAND [ARGUMENT...]
set -eu

stamp=$1
shift
inputs=
while [ "$1" != -- ]; do inputs="$inputs $1"; shift; done
shift

mkdir -p build "$(dirname "$stamp")"
exec 9>build/setup.lock
flock 9
# shellcheck disable=SC2086 # a list of paths without blanks
sum=$(cat $inputs | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$sum" ]; then
    rm -f "$stamp"
    # 9>&-: a process that outlives its installer must not hold the lock.
    "$@" 9>&-
    mkdir -p "$(dirname "$stamp")"
    echo "$sum" >"$stamp"
fi
touch "$stamp"

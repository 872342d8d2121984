#!/bin/sh
# Installs the Debian packages named in the given lists, if any is missing. Touches nothing else: services
# that come with a package (mosquitto, knot) are neither started now nor left enabled for the next boot.
#
# Usage: apt.sh LIST...        a list is a file of "package [command:NAME] [# who uses it]" lines
set -eu

export DEBIAN_FRONTEND=noninteractive
export PATH="$PATH:/usr/sbin:/sbin"

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=
while read -r package rest; do
    case "$package" in
        '' | '#'*) continue ;;
        # Any Python will do that can make virtual environments; Debian's is one of them.
        python3-venv) sh "$(dirname "$0")/python.sh" >/dev/null 2>&1 && continue ;;
    esac
    case "$rest" in
        command:*) have=${rest#command:} have=${have%% *}
                   command -v "$have" >/dev/null 2>&1 && continue ;;
    esac
    if command -v dpkg-query >/dev/null 2>&1 && installed "$package"; then continue; fi
    case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done <<LISTS
$(cat "$@")
LISTS

[ -n "$missing" ] || { echo "setup: Debian packages: nothing to do"; exit 0; }
if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: missing:$missing" >&2
    echo "setup: no apt-get here; install these by other means (the names are Debian's), then run make again" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "setup: missing:$missing" >&2
    echo "setup: run make as root, or install them first: apt-get install$missing" >&2
    exit 1
fi

# A service started by its package would hold the ports and the memory of a machine that only wants to test.
# invoke-rc.d asks policy-rc.d; 101 means "not allowed"
# (/usr/share/doc/init-system-helpers/README.policy-rc.d.gz).
policy=/usr/sbin/policy-rc.d
ours=
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# wgrouter: here only while make setup installs packages.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    ours=1
fi
cleanup() { [ -z "$ours" ] || rm -f "$policy"; }
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

# Three attempts: a mirror may be unreachable for a moment, and a package index a fresh image carries may be
# out of date. DPkg::Lock::Timeout waits for an unattended upgrade that holds the lock.
apt() {
    apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -q -y "$@" </dev/null >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; return 1; }
}

mkdir -p build
log=build/apt.log
echo "setup: installing Debian packages (log: $log):$missing"
attempt=1
while :; do
    # shellcheck disable=SC2086 # a list of words
    apt install --no-install-recommends $missing && break
    [ "$attempt" -lt 3 ] || { echo "setup: apt-get failed $attempt times; see $log" >&2; exit 1; }
    echo "setup: apt-get failed (attempt $attempt of 3): refreshing the package index and trying again" >&2
    [ "$attempt" = 1 ] || sleep 10
    attempt=$((attempt + 1))
    apt update || echo "setup: the package index could not be refreshed wholly; going on with what there is" >&2
done

for package in $missing; do
    case "$package" in
        mosquitto | knot)
            # Enabled by its postinst, so it would run from the next boot on. Nobody asked for that.
            if command -v systemctl >/dev/null 2>&1; then
                systemctl disable "$package" >/dev/null 2>&1 || true
            elif command -v update-rc.d >/dev/null 2>&1; then
                update-rc.d "$package" disable >/dev/null 2>&1 || true
            fi ;;
    esac
done

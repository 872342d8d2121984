#!/bin/sh
# The rule of reresolve-dns.sh, from its documented behaviour: a peer whose last handshake is older than 135 s is
# given its endpoint's name again. Each minute, as cron does.
# Usage: reresolve.sh DEVICE SECONDS_BEFORE_THE_FIRST_TIME [PUBLIC_KEY HOST:PORT]...
device=$1
sleep "$2"
shift 2
while :; do
	now=$(date +%s)
	seen=$(wg show "$device" latest-handshakes)
	set -- "$@" end
	while [ "$1" != end ]; do
		key=$1 place=$2
		shift 2
		set -- "$@" "$key" "$place"
		at=$(echo "$seen" | sed -n "s|^${key}[[:space:]]*||p")
		if [ $((now - ${at:-0})) -gt 135 ]; then
			wg set "$device" peer "$key" endpoint "$place"
			echo "$now $place"
		fi
	done
	shift
	sleep 60
done

#!/bin/sh
# A tracker as mwan3track is documented, with mwan3's default constants: score 10 of 10 at first; a lost ping costs
# one, at 5 the uplink is taken out; an answer gives one, at 5 it is brought back.
# Usage: tracker.sh DEVICE GATEWAY METRIC TARGET INTERVAL
device=$1 gateway=$2 metric=$3 target=$4 interval=$5
timeout=4 down=5 up=5
score=$((down + up))
while :; do
	if ping -n -q -c 1 -W "$timeout" -I "$device" "$target" >/dev/null 2>&1; then
		[ "$score" -lt "$((down + up))" ] && score=$((score + 1))
		if [ "$score" -eq "$up" ]; then
			ip route replace default via "$gateway" dev "$device" metric "$metric"
			conntrack -F 2>/dev/null
			echo "connected"
			score=$((down + up))
		fi
	else
		[ "$score" -gt 0 ] && score=$((score - 1))
		if [ "$score" -eq "$up" ]; then
			ip route del default via "$gateway" dev "$device" metric "$metric"
			conntrack -F 2>/dev/null
			echo "disconnected"
			score=0
		fi
	fi
	sleep "$interval"
done

#!/bin/sh
# Run by the feed's CI in a container after installation: $1 is the package, $2 its version.

set -e

case "$1" in
wgrouter)
	# The shipped configuration is without a problem, and what the agent imports when it runs is there.
	wgrouter check
	python3 - <<-'EOF'
		import sys

		sys.path.insert(0, "/usr/lib/wgrouter")
		import wgrouter.daemon
	EOF
	;;
*)
	echo "no test for $1" >&2
	exit 1
	;;
esac

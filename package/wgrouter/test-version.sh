#!/bin/sh
# Run by the feed's CI: PKG_NAME and PKG_VERSION (also $1 and $2) say what must be there.

case "${PKG_NAME:-$1}" in
wgrouter) wgrouter --version 2>&1 | grep -F "${PKG_VERSION:-$2}" ;;
*)
	echo "Untested package: ${PKG_NAME:-$1}" >&2
	exit 1
	;;
esac

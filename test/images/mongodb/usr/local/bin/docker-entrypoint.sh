#!/bin/sh
# Entry point of the MongoDB stand-in.
set -e

case ${1-} in
-*) set -- mongod "$@" ;;
esac

if [ "${1-}" = mongod ] && [ "$(id -u)" = 0 ]; then
	find /data/configdb /data/db \! -user mongodb -exec chown mongodb '{}' +
	exec setpriv --reuid=mongodb --regid=mongodb --clear-groups "$0" "$@"
fi
exec "$@"

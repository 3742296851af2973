#!/bin/sh
# Entry point of the Redis image: as the published one, with its protected mode
# off (there it is off in the program itself).
set -e

case ${1-} in
-* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1-}" = redis-server ]; then
	set -- "$@" --protected-mode no
	if [ "$(id -u)" = 0 ]; then
		find . \! -user redis -exec chown redis '{}' +
		exec setpriv --reuid=redis --regid=redis --clear-groups "$@"
	fi
fi
exec "$@"

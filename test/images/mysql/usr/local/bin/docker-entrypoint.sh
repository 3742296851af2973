#!/bin/bash
# Entry point of the MySQL stand-in (MariaDB). As in the published image: an
# empty data folder is initialised by a server that has no network, root gets
# its password from MYSQL_ROOT_PASSWORD or MYSQL_ROOT_PASSWORD_FILE, and the
# process that stays is the server itself.
set -euo pipefail

note() { echo "$(date --rfc-3339=seconds) [Note] [Entrypoint]: $*"; }
fail() { echo "$(date --rfc-3339=seconds) [ERROR] [Entrypoint]: $*" >&2; exit 1; }

# NAME or the content of the file that NAME_FILE names, never both.
file_env() {
	local name=$1 file=$1_FILE default=${2-}
	[[ -z ${!name-} || -z ${!file-} ]] || fail "both $name and $file are set (but are exclusive)"
	local value=$default
	if [[ -n ${!name-} ]]; then value=${!name}; fi
	if [[ -n ${!file-} ]]; then value=$(<"${!file}"); fi
	export "$name=$value"
	unset "$file"
}

# A quoted SQL string.
sql_string() {
	local s=${1//\\/\\\\}
	printf "'%s'" "${s//\'/\\\'}"
}

if [[ ${1-} == -* ]]; then set -- mysqld "$@"; fi
if [[ ${1-} != mysqld ]]; then exec "$@"; fi

data=/var/lib/mysql
for arg; do
	case $arg in
	--datadir=*) data=${arg#--datadir=} ;;
	esac
done

if [[ $(id -u) == 0 ]]; then
	mkdir -p "$data" /var/run/mysqld
	chown -R mysql:mysql "$data" /var/run/mysqld
	exec setpriv --reuid=mysql --regid=mysql --init-groups "$0" "$@"
fi

# Options that only MySQL 8 has: some have no meaning here, the others are
# passed on as "if you know it".
args=()
for arg; do
	case $arg in
	--mysql-native-password*) ;;
	--mysqlx* | --skip-mysqlx* | --innodb-redo-log-capacity* | --innodb-dedicated-server* | \
		--authentication-policy* | --default-authentication-plugin* | --caching-sha2*)
		args+=("--loose-${arg#--}") ;;
	*) args+=("$arg") ;;
	esac
done
set -- "${args[@]}"

# The marker says that an initialisation was begun and did not end, so that a
# container killed in the middle of it begins anew.
marker=$data/.initialising
if [[ ! -d $data/mysql || -e $marker ]]; then
	file_env MYSQL_ROOT_PASSWORD
	file_env MYSQL_ROOT_HOST '%'
	file_env MYSQL_DATABASE
	file_env MYSQL_USER
	file_env MYSQL_PASSWORD
	if [[ -z $MYSQL_ROOT_PASSWORD && -z ${MYSQL_ALLOW_EMPTY_PASSWORD-} && -z ${MYSQL_RANDOM_ROOT_PASSWORD-} ]]; then
		fail "Database is uninitialized and password option is not specified
    You need to specify one of the following as an environment variable:
    - MYSQL_ROOT_PASSWORD
    - MYSQL_ALLOW_EMPTY_PASSWORD
    - MYSQL_RANDOM_ROOT_PASSWORD"
	fi
	[[ -w $data ]] || fail "$data is not writable by user $(id -u)"
	if [[ -e $marker ]]; then
		note "An earlier initialisation did not end: starting it anew"
		find "$data" -mindepth 1 -not -name "${marker##*/}" -delete
	elif [[ -n $(ls -A "$data") ]]; then
		fail "--initialize specified but the data directory $data has files in it. Aborting."
	fi
	: >"$marker"
	# The first process of a container has no default for signals.
	trap 'exit 143' TERM INT
	note "Initializing database files"
	mariadb-install-db --datadir="$data" --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve >/dev/null
	note "Database files initialized"

	note "Starting temporary server"
	"$@" --datadir="$data" --skip-networking --skip-log-bin &
	server=$!
	trap 'kill -TERM $server; wait $server; exit 143' TERM INT
	sql=(mysql --no-defaults --protocol=socket -uroot --socket=/var/run/mysqld/mysqld.sock --batch --skip-column-names)
	for ((i = 0; ; i++)); do
		if "${sql[@]}" -e 'SELECT 1' >/dev/null 2>&1; then break; fi
		kill -0 $server 2>/dev/null || fail "Unable to start server."
		((i < 600)) || fail "The temporary server gave no answer for a minute."
		sleep 0.1
	done
	note "Temporary server started."

	if [[ -z $MYSQL_ROOT_PASSWORD && -n ${MYSQL_RANDOM_ROOT_PASSWORD-} ]]; then
		MYSQL_ROOT_PASSWORD=$(head -c 18 /dev/urandom | base64)
		note "GENERATED ROOT PASSWORD: $MYSQL_ROOT_PASSWORD"
	fi
	{
		# The published image has no account but root.
		echo "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host != 'localhost');"
		echo "FLUSH PRIVILEGES;"
		password=$(sql_string "$MYSQL_ROOT_PASSWORD")
		if [[ $MYSQL_ROOT_HOST != localhost ]]; then
			host=$(sql_string "$MYSQL_ROOT_HOST")
			echo "CREATE USER 'root'@$host IDENTIFIED BY $password;"
			echo "GRANT ALL ON *.* TO 'root'@$host WITH GRANT OPTION;"
		fi
		if [[ -n $MYSQL_DATABASE ]]; then echo "CREATE DATABASE IF NOT EXISTS \`${MYSQL_DATABASE//\`/}\`;"; fi
		if [[ -n $MYSQL_USER && -n $MYSQL_PASSWORD ]]; then
			echo "CREATE USER $(sql_string "$MYSQL_USER")@'%' IDENTIFIED BY $(sql_string "$MYSQL_PASSWORD");"
			if [[ -n $MYSQL_DATABASE ]]; then
				echo "GRANT ALL ON \`${MYSQL_DATABASE//\`/}\`.* TO $(sql_string "$MYSQL_USER")@'%';"
			fi
		fi
		echo "ALTER USER 'root'@'localhost' IDENTIFIED BY $password;"
	} | "${sql[@]}"

	note "Stopping temporary server"
	kill -TERM $server
	wait $server || true
	trap - TERM INT
	sync
	rm "$marker"
	note "MySQL init process done. Ready for start up."
fi
unset MYSQL_ROOT_PASSWORD MYSQL_PASSWORD
exec "$@"

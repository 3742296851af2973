# The platform's database and account. Each run sets the password again, so
# that database and settings agree after a restore.
exec mysql --defaults-extra-file=/etc/tarima/client.cnf < /etc/tarima/init.sql

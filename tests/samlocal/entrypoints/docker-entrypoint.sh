#!/bin/bash
# After the official one: a first server, which listens on the socket alone, runs what is to be run
# once; then the real one.
set -eu
as_postgres() { setpriv --reuid=70 --regid=70 --clear-groups "$@"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chown -R 70:70 "$PGDATA"
    chmod 700 "$PGDATA"
    password=$(as_postgres mktemp)
    printf %s "$POSTGRES_PASSWORD" > "$password"
    as_postgres initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --encoding=UTF8 \
        --pwfile="$password" --auth-local=trust --auth-host=scram-sha-256 > /dev/null
    rm "$password"
    printf '\nhost all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    as_postgres pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -k /tmp" -w start > /dev/null
    as_postgres psql -qh /tmp -U "$POSTGRES_USER" -d postgres -c "create database \"$POSTGRES_DB\""
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ -e "$file" ] || continue
        as_postgres psql -v ON_ERROR_STOP=1 -qh /tmp -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file"
    done
    as_postgres pg_ctl -D "$PGDATA" -m fast -w stop > /dev/null
fi
exec setpriv --reuid=70 --regid=70 --clear-groups "$@" -D "$PGDATA" -c listen_addresses='*' -k /tmp

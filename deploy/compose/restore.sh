#!/bin/sh
# Replaces all data by those of a backup: deploy/compose/restore.sh FILE
#
# The backup is loaded and migrated beside the present database, which serves meanwhile. If that succeeds,
# the service stops, the files of FILE.objects.tar are added to the volume `objects`, and the two databases
# change places. This takes half a minute, and the time for reading the files. The replaced database is kept
# under the name `app_replaced` until the next restore. Files that only it names are deleted after a week.
# If no instance runs, only the database is started before: so it does not matter whether the service starts
# with the present data.
set -eu
caller=$PWD
cd "$(dirname "$0")/../.."

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
in_database() { docker compose exec -T database "$@"; }
sql() { in_database env PGOPTIONS=--client-min-messages=warning psql --username postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"; }
in_image() { docker compose run --rm --no-deps -T "$@"; }
drop_restored() { sql --dbname postgres --command 'DROP DATABASE IF EXISTS app_restored WITH (FORCE)'; }

start_service() {
    if [ "$running" -eq 0 ]; then
        docker compose up --wait
    else
        docker compose up --wait --no-recreate --scale app="$running"
    fi
}

# The service comes first, because the database may be what has failed.
undo() {
    [ -z "$stopped" ] || docker compose start app worker || say "Start the service: docker compose up --wait"
    drop_restored
}

say_how_to_start() {
    say "The data were replaced, but the service does not run. Correct the error above, then run:" \
        "docker compose run --rm --no-deps app python -m app.flush_cache && docker compose up --wait" >&2
}

[ $# -eq 1 ] || fail "Usage: deploy/compose/restore.sh FILE"
case $1 in /*) file=$1 ;; *) file=$caller/$1 ;; esac
objects=${file%.dump}.objects.tar
[ -f "$file" ] && [ -r "$file" ] ||
    fail "$file cannot be read. Give the path of a file that deploy/compose/backup.sh has written."
exec 9<deploy/compose
if command -v flock >/dev/null && ! flock -n 9; then fail "Another upgrade or restore is running. Wait for its end."; fi
stopped=''

running=$(($(docker compose ps --quiet app | wc -l)))
if [ "$running" -eq 0 ]; then
    say "1. Building the image, because no instance of the service runs, and starting the database"
    docker compose build app
else
    say "1. Checking that the database runs"
fi
docker compose up --wait --no-recreate database valkey

say "2. Loading the backup beside the present database"
trap undo EXIT
trap 'exit 1' HUP INT TERM
drop_restored
sql --dbname postgres --command 'CREATE DATABASE app_restored OWNER migrations TEMPLATE template0'
in_database pg_restore --username postgres --dbname app_restored --exit-on-error <"$file" ||
    fail "The backup could not be loaded, so nothing was changed. Is $file complete, and is the disk not full?"
sql --dbname app_restored --command ANALYZE

say "3. Migrating it to the schema of this version"
in_image migrate sh -c 'DATABASE_URL=$(sed -n "s,/app\(?.*\)*$,/app_restored\1,p" /run/secrets/database_url)
    export DATABASE_URL="${DATABASE_URL:?names another database than app}" && exec python -m alembic upgrade head' ||
    fail "The backup could not be migrated, so nothing was changed. If a revision cannot be located, a newer version" \
        "of the service wrote the backup: check out that version, run deploy/compose/upgrade.sh, and try again."

say "4. Stopping the service. It does not answer until it is started again"
[ "$running" -eq 0 ] || stopped=yes
docker compose stop app worker

# A running worker would delete files that only the backup needs. A file never changes under its name, so
# none of the present files has to be replaced.
if [ -f "$objects" ]; then
    say "5. Adding the files of $objects"
    in_image app tar --extract --skip-old-files --directory /var/lib/objects <"$objects" ||
        fail "The files could not be added, so the data were not changed. Is $objects complete, and is the disk not full?"
else
    say "5. There is no $objects, so no files are added"
fi

say "6. Changing the databases"
sql --dbname postgres <<'SQL'
DROP DATABASE IF EXISTS app_replaced WITH (FORCE);
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app' \g /dev/null
BEGIN;
ALTER DATABASE app RENAME TO app_replaced;
ALTER DATABASE app_restored RENAME TO app;
COMMIT;
SQL
trap say_how_to_start EXIT
in_image app python -m app.flush_cache

say "7. Starting the service"
start_service
trap - EXIT

say "8. Looking for files that the restored data do not name"
in_image app python -m app.delete_orphans ||
    say "Nothing will delete such files. To look for them again: docker compose run --rm app python -m app.delete_orphans"
say "The data of $file are served. When you do not need the replaced data any more, delete them:" \
    "docker compose exec database dropdb --username postgres app_replaced"

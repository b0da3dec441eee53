#!/bin/sh
# Writes all data of the database into a file: deploy/compose/backup.sh [FOLDER]
#
# The service goes on meanwhile. The file appears under its name only when it is complete. It contains
# password hashes and personal data, so only its owner may read it.
set -eu
umask 077
case ${1:-} in /* | '') folder=${1:-backups} ;; *) folder=$PWD/$1 ;; esac
cd "$(dirname "$0")/../.."

mkdir -p "$folder"
file=$folder/$(date -u +%Y-%m-%dT%H-%M-%SZ).dump
partial=$file.$$.partial
trap 'rm -f "$partial"' EXIT
trap 'exit 1' HUP INT TERM
fail() { printf '%s\n' "$*" >&2; exit 1; }

docker compose exec -T database pg_dump --username postgres --format custom app >"$partial" ||
    fail "No backup was written. Correct the error above. The database has to run: docker compose up --wait database"
# Read the file back to its end, as a restore would.
docker compose exec -T database pg_restore --file /dev/null <"$partial" ||
    fail "No backup was written: the file could not be read back. Is the disk full?"
sync "$partial"
mv "$partial" "$file"
echo "$file: $(wc -c <"$file") bytes. To restore it: deploy/compose/restore.sh $file"

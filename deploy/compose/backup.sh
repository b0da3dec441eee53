#!/bin/sh
# Writes all data of the database into a file, and the volume `objects` into another one:
# deploy/compose/backup.sh [FOLDER]
#
# The service goes on meanwhile. The files appear under their names only when both are complete. They
# contain password hashes and personal data, so only their owner may read them.
set -eu
umask 077
case ${1:-} in /* | '') folder=${1:-backups} ;; *) folder=$PWD/$1 ;; esac
cd "$(dirname "$0")/../.."

mkdir -p "$folder"
name=$folder/$(date -u +%Y-%m-%dT%H-%M-%SZ)
file=$name.dump
partial=$file.$$.partial
objects=$name.objects.tar.$$.partial
trap 'rm -f "$partial" "$objects"' EXIT
trap 'exit 1' HUP INT TERM
fail() { printf '%s\n' "$*" >&2; exit 1; }

docker compose exec -T database pg_dump --username postgres --format custom app >"$partial" ||
    fail "No backup was written. Correct the error above. The database has to run: docker compose up --wait database"
# Read the file back to its end, as a restore would.
docker compose exec -T database pg_restore --file /dev/null <"$partial" ||
    fail "No backup was written: the file could not be read back. Is the disk full?"
# After the database: so all files that its rows name are there, unless they were deleted in between.
# Then tar ends with status 1. Names with # are of files that are being written.
docker compose run --rm --no-deps -T app sh -c \
    'tar --create --directory /var/lib/objects --exclude="*#[0-9]*" . || [ $? -eq 1 ]' >"$objects" ||
    fail "No backup was written. Correct the error above: the volume of the files could not be read."
tar --list --file "$objects" >/dev/null ||
    fail "No backup was written: the archive of the files could not be read back. Is the disk full?"
sync "$partial" "$objects"
mv "$objects" "$name.objects.tar"
mv "$partial" "$file"
echo "$file: $(wc -c <"$file") bytes, and $name.objects.tar: $(wc -c <"$name.objects.tar") bytes. To restore it: deploy/compose/restore.sh $file"

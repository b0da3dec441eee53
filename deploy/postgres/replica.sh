#!/bin/bash
# Runs a streaming replica of the database. It copies the primary at its first start and follows it from
# then on. If it was stopped for so long that the primary no longer has the WAL that it needs
# (`wal_keep_size`), remove its volume: the next start copies the primary again.
set -euo pipefail
PGPASSWORD=$(cat /run/secrets/replication_password)
export PGPASSWORD

# pg_basebackup writes this file last. If it is missing, there is no copy yet, or an incomplete one.
if [ ! -e "$PGDATA/standby.signal" ]; then
    rm -rf "$PGDATA"
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    gosu postgres pg_basebackup --pgdata "$PGDATA" --host database --username replication \
        --write-recovery-conf --wal-method stream --checkpoint fast
fi
exec gosu postgres "$@"

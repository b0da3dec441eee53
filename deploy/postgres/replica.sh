#!/bin/bash
# A streaming standby: copies the primary at its first start, follows it from then on.
# When it was away for longer than `wal_keep_size` lasts, remove its volume: it copies again.
set -euo pipefail
PGPASSWORD=$(cat /run/secrets/replication_password)
export PGPASSWORD

# This file is written last: without it a copy was interrupted.
if [ ! -e "$PGDATA/standby.signal" ]; then
    rm -rf "$PGDATA"
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    gosu postgres pg_basebackup --pgdata "$PGDATA" --host database --username replication \
        --write-recovery-conf --wal-method stream --checkpoint fast
fi
exec gosu postgres "$@"

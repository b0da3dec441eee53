-- Run this as the superuser in the database `app`, once, before the first migration.
-- Passwords are read from files, so that they appear in no command line, log or environment variable.
\set app_password `cat /run/secrets/app_password`
\set migrations_password `cat /run/secrets/migrations_password`
\set replication_password `cat /run/secrets/replication_password`

-- The role `migrations` owns the schema. It has no timeouts, because migrations may run for long.
CREATE ROLE migrations LOGIN PASSWORD :'migrations_password';
ALTER DATABASE app OWNER TO migrations;

-- The role `app` is for the service. It reads and writes rows, and cannot change the schema.
CREATE ROLE app LOGIN PASSWORD :'app_password';
ALTER DEFAULT PRIVILEGES FOR ROLE migrations
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE migrations GRANT USAGE ON SEQUENCES TO app;
-- At start-up the service counts the connections of other clients in pg_stat_activity.
GRANT pg_read_all_stats TO app;

-- The service sets these timeouts for its own connections, except behind PgBouncer in transaction mode,
-- where a setting of one client would reach another. There, the timeouts of the role apply.
ALTER ROLE app SET statement_timeout = '5s';
ALTER ROLE app SET lock_timeout = '2s';
ALTER ROLE app SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE app SET client_connection_check_interval = '2s';

CREATE ROLE replication LOGIN REPLICATION PASSWORD :'replication_password';
\! echo "host replication replication all scram-sha-256" >>"$PGDATA/pg_hba.conf"

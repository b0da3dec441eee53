-- Run by the superuser in the database `app`, once, before the first migration.
-- Passwords come from files and are in no command line, log or environment.
\set app_password `cat /run/secrets/app_password`
\set migrations_password `cat /run/secrets/migrations_password`
\set replication_password `cat /run/secrets/replication_password`

-- Migrations own the schema and may take their time.
CREATE ROLE migrations LOGIN PASSWORD :'migrations_password';
ALTER DATABASE app OWNER TO migrations;

-- The service works on rows and cannot change the schema.
CREATE ROLE app LOGIN PASSWORD :'app_password';
ALTER DEFAULT PRIVILEGES FOR ROLE migrations
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE migrations GRANT USAGE ON SEQUENCES TO app;
-- Start-up counts the connections that others hold.
GRANT pg_read_all_stats TO app;

-- The service sets these for its own connections as well. As the role's they hold behind PgBouncer
-- in transaction mode too, where what one client sets reaches another.
ALTER ROLE app SET statement_timeout = '5s';
ALTER ROLE app SET lock_timeout = '2s';
ALTER ROLE app SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE app SET client_connection_check_interval = '2s';

CREATE ROLE replication LOGIN REPLICATION PASSWORD :'replication_password';
\! echo "host replication replication all scram-sha-256" >>"$PGDATA/pg_hba.conf"

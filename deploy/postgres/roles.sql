-- Compose runs this at its first start. In a database of your own, an administrator runs it once in the
-- database `app`, before the first migration: see docs/deployment.md.
-- The passwords are read from the files app_password and migrations_password in SECRETS_DIR, so that they
-- appear in no command line, log or environment variable.
\set ON_ERROR_STOP on
\set app_password `cat "${SECRETS_DIR-/run/secrets}/app_password"`
\set migrations_password `cat "${SECRETS_DIR-/run/secrets}/migrations_password"`

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

-- Creates the roles of the service, and makes `migrations` the owner of the database that psql is
-- connected to. Compose runs this at its first start. For a database of your own or a managed one, see
-- docs/deployment/database.md.
-- It may be run again: that sets the passwords to those in the files, and repairs missing privileges.
-- It needs a superuser, or a role with CREATEROLE and CREATEDB that owns the database.
-- The passwords are read from the files app_password and migrations_password in SECRETS_DIR, so that they
-- appear in no command line, log or environment variable.
\set ON_ERROR_STOP on
\set app_password `cat "${SECRETS_DIR-/run/secrets}/app_password"`
\set migrations_password `cat "${SECRETS_DIR-/run/secrets}/migrations_password"`

SELECT length(:'app_password') = 0 OR length(:'migrations_password') = 0 AS has_no_password \gset
\if :has_no_password
    DO $$ BEGIN
        RAISE 'SECRETS_DIR must name a folder with the files app_password and migrations_password';
    END $$;
\endif

-- The role `migrations` owns the schema. It has no timeouts, because migrations may run for long.
SELECT 'CREATE ROLE migrations' WHERE to_regrole('migrations') IS NULL \gexec
ALTER ROLE migrations LOGIN PASSWORD :'migrations_password';

-- The role `app` is for the service. It reads and writes rows, and cannot change the schema.
SELECT 'CREATE ROLE app' WHERE to_regrole('app') IS NULL \gexec
ALTER ROLE app LOGIN PASSWORD :'app_password';

-- Only a member of `migrations` may give it a database and act as it. A superuser needs no membership.
SELECT 'GRANT migrations TO CURRENT_USER' FROM pg_roles WHERE rolname = current_user AND NOT rolsuper \gexec
ALTER DATABASE :"DBNAME" OWNER TO migrations;

SET ROLE migrations;
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO app;
-- The tables and sequences that exist already.
SELECT format('GRANT %s ON %s TO app',
              CASE relkind WHEN 'S' THEN 'USAGE' ELSE 'SELECT, INSERT, UPDATE, DELETE' END,
              CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END || oid::regclass)
FROM pg_class
WHERE relkind IN ('r', 'p', 'v', 'm', 'S') AND relowner = 'migrations'::regrole
  AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\_%') \gexec
RESET ROLE;

-- At start-up the service counts the connections of other clients in pg_stat_activity. From PostgreSQL 16
-- on, an administrator may need the permission to grant this.
SELECT pg_has_role('pg_read_all_stats', 'MEMBER WITH ADMIN OPTION')
    OR current_setting('server_version_num')::int < 160000 AS may_grant_statistics \gset
\if :may_grant_statistics
    GRANT pg_read_all_stats TO app;
\else
    \echo 'NOTICE: This administrator may not grant pg_read_all_stats to app. Everything works, but the'
    \echo 'check at start-up does not see the connections of other roles, so leave some connections free.'
\endif

-- The service sets these timeouts for its own connections, except behind PgBouncer in transaction mode,
-- where a setting of one client would reach another. There, the timeouts of the role apply.
ALTER ROLE app SET statement_timeout = '5s';
ALTER ROLE app SET lock_timeout = '2s';
ALTER ROLE app SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE app SET client_connection_check_interval = '2s';

-- Compose runs this at its first start, on the machine of PostgreSQL. It creates the role with which the
-- database replica copies the data (deploy/postgres/replica.sh).
\set replication_password `cat /run/secrets/replication_password`
CREATE ROLE replication LOGIN REPLICATION PASSWORD :'replication_password';
\! echo "host replication replication all scram-sha-256" >>"$PGDATA/pg_hba.conf"

#!/bin/sh
# Creates random secrets for a `docker compose` installation, once. Each service that reads secrets has
# its own volume. Remove these volumes only together with the database's volume: the database keeps the
# passwords that it was created with.
set -eu
cd "$1"
[ ! -e database/complete ] || exit 0

random() { head -c 48 /dev/urandom | base64 | tr -d '\n+/='; }

app=$(random) migrations=$(random) signing=$(random)
printf %s "$signing" >app/auth_secret
printf %s "$signing" >migrate/auth_secret
printf %s "postgresql://app:$app@database:5432/app" >app/database_url
printf %s "postgresql://migrations:$migrations@database:5432/app" >migrate/database_url
printf %s "$app" >database/app_password
printf %s "$migrations" >database/migrations_password
printf %s "$(random)" >database/replication_password
touch database/complete

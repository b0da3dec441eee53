#!/bin/sh
# Replaces the instances of the service by a new version, and loses no request:
#
#   deploy/compose/upgrade.sh          build the code in this folder, migrate the database, replace the instances
#   deploy/compose/upgrade.sh --back   return to the version before, without a build and without a migration
#
# As many new instances start beside the old ones. When they are healthy, the old ones are drained and
# removed. If they do not become healthy, they are removed, and the old ones have served all the time.
# After an interruption, run the same command again: it goes on with what it finds.
set -eu
cd "$(dirname "$0")/../.."

HEALTHY_WITHIN_SECONDS=180
BALANCER_NOTICES_SECONDS=3 # HAProxy asks DNS every second, and a new instance's /readyz after that
# A container without a health check counts as healthy.
HEALTH='{{.State.Status}} {{with .State.Health}}{{.Status}}{{else}}healthy{{end}} {{.RestartCount}}'

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
inspect() { docker inspect --format "$1" "$2"; }
count() { echo $#; }
instances() { docker compose ps --quiet "$@" app; }
migration() { docker compose ps --quiet --all migrate; }
variable() { inspect '{{range .Config.Env}}{{println .}}{{end}}' "$2" | sed -n "s/^$1=//p"; }

# Prints what an instance runs: its image, and a digest of the settings that Compose starts it with.
version() { inspect '{{.Image}} {{index .Config.Labels "com.docker.compose.config-hash"}}' "$1"; }

# Creates instances without starting them, until there are $1 of them. `new` lists those of this upgrade.
# Compose is given all services, because it would replace instances that were created without the others.
create() {
    docker compose up --no-start --no-recreate --no-build --scale app="$1"
    new=$(instances --all | grep -vxF "$before" || true)
}

# Removes containers, and the anonymous volumes that only they use.
remove() { [ $# -eq 0 ] || docker rm --force --volumes "$@" >/dev/null; }

# Undoes everything, as long as no old instance was stopped.
undo() {
    remove $new $(migration)
    docker tag "$old_image" "$name"
}

# Waits until these instances are healthy. Returns 1 as soon as one of them cannot become healthy.
wait_for() {
    waited=0
    while [ "$waited" -lt "$HEALTHY_WITHIN_SECONDS" ]; do
        healthy=0
        for id in "$@"; do
            case $(inspect "$HEALTH" "$id") in
            "running healthy "*) healthy=$((healthy + 1)) ;;
            "running starting 0") ;;
            *) return 1 ;;
            esac
        done
        if [ "$healthy" -eq $# ]; then return 0; fi
        if [ $((waited % 5)) -eq 0 ]; then say "   $healthy of $# are healthy after $waited s"; fi
        sleep 1
        waited=$((waited + 1))
    done
    return 1
}

# nginx looks the instances up only when it reloads. HAProxy looks them up all the time.
tell_balancer() {
    docker compose exec -T balancer sh -c '! command -v nginx || nginx -s reload' >/dev/null 2>&1 || true
    sleep "$BALANCER_NOTICES_SECONDS"
}

take_image() {
    if [ -z "$back" ]; then
        say "1. Building the image"
        docker compose build app || fail "The image was not built, and nothing has changed. Correct the error above."
    else
        say "1. Taking the image of the version before"
        docker tag "$repository:previous" "$name" 2>/dev/null ||
            fail "There is no version to return to: no upgrade has replaced one on this machine."
    fi
}

# Creates a first new instance, which is not started yet, and compares the running ones with it. Sets `old`
# to those that differ, `current` to those that do not, and `missing` to how many have to be started.
compare() {
    say "2. Comparing the new version with the instances that run"
    remove $(instances --all | grep -vxF "$before") $(migration)
    running=$(count $before)
    create $((running + 1))
    wanted=$(version "$new")
    current='' old=''
    for id in $before; do
        if [ "$(version "$id")" = "$wanted" ]; then current="$current $id"; else old="$old $id"; fi
    done
    [ -z "$old" ] || old_image=$(inspect '{{.Image}}' "${old##* }")
    target=$(variable INSTANCES "$new")
    missing=$((${target:-$(count $old)} - $(count $current)))
}

check_replicas() {
    limit=$(variable REPLICAS "$new")
    if [ $((running + missing)) -gt "$limit" ]; then
        fail "REPLICAS is $limit, but $((running + missing)) instances have to run at the same time for a moment." \
            "Nothing was changed. Write REPLICAS=$((running + missing)) into .env, and run this command again."
    fi
}

migrate() {
    say "3. Migrating the database"
    docker start --attach "$(migration)" ||
        fail "The migration failed, so no new instance was started. The old ones serve. Correct the error above."
}

start_new() {
    say "4. Starting new instances: $missing"
    create $((running + missing))
    docker start $new >/dev/null
}

explain_failure() {
    for id in $new; do
        say "The end of the log of the new instance $(inspect '{{.Name}}' "$id"):"
        docker logs --tail 15 "$id" 2>&1 | sed 's/^/   /'
    done
    fail "A new instance did not become healthy, so the new ones are removed. The old ones serve. Correct the" \
        "error that the log shows, and run this command again."
}

# Other services that run this image, such as the workers for jobs. No client waits for them, and a worker
# that stops gives its jobs back. They are replaced while old instances still run, because a run after an
# interruption compares only the instances.
replace_others() {
    others='' ids=''
    for service in $(docker compose ps --all --services | grep -vxE 'app|migrate'); do
        id=$(docker compose ps --quiet --all "$service" | head -n 1)
        if [ "$(inspect '{{.Config.Image}}' "$id")" = "$name" ]; then
            others="$others $service" ids="$ids $(docker compose ps --quiet --all "$service")"
        fi
    done
    [ -n "$others" ] || return 0
    say "5. Replacing other services that run this image:$others"
    docker stop $ids >/dev/null
    remove $ids
    create "$(count $(instances --all))"
    ids=$(for service in $others; do docker compose ps --quiet --all "$service"; done)
    docker start $ids >/dev/null
    wait_for $ids || fail "One of these services did not become healthy:$others. The instances serve, the old and the" \
        "new ones. Read the log: docker compose logs$others. Correct the error, and run this command again."
}

# Keeps the replaced image for --back.
keep_old_image() {
    [ "$old_image" = "$(inspect '{{.Image}}' "${new_ids%% *}")" ] || docker tag "$old_image" "$repository:previous"
}

retire_old() {
    say "6. Draining and stopping old instances: $(count $old). This takes up to 45 s"
    tell_balancer
    docker stop $old >/dev/null
    remove $old
    tell_balancer
}

back=''
case ${1-} in
'') ;;
--back) back=yes ;;
*) fail "Usage: deploy/compose/upgrade.sh [--back]" ;;
esac
exec 9<deploy/compose
if command -v flock >/dev/null && ! flock -n 9; then fail "Another upgrade or restore is running. Wait for its end."; fi

before=$(instances) || fail "Compose cannot read its files, or cannot reach Docker. Correct the error above."
if [ -z "$before" ]; then
    [ -z "$back" ] || fail "No instance runs. Start the version that you want: docker compose up --build --wait"
    say "No instance runs yet, so everything is built and started."
    exec docker compose up --build --wait
fi
new=''
first=$(echo "$before" | head -n 1)
old_image=$(inspect '{{.Image}}' "$first")
name=$(inspect '{{.Config.Image}}' "$first")
case ${name##*/} in *:*) repository=${name%:*} ;; *) repository=$name ;; esac

trap undo EXIT
trap 'exit 1' HUP INT TERM
take_image
compare
if [ -z "$old" ]; then
    say "All instances run this version with these settings already: $running. Nothing was changed."
    exit 0
fi
if [ "$missing" -gt 0 ]; then
    check_replicas
    [ -n "$back" ] || migrate
    start_new
else
    remove $new
    new=''
fi
wait_for $current $new || explain_failure
trap - EXIT # from here on, the new instances stay
new_ids=$(echo $current $new)
docker logs "${new_ids%% *}" 2>&1 | grep 'is not a setting' | sed 's/^/   /' || true
# Forwards, this comes first: an interruption may leave no old instance that tells its image. On the way
# back it comes last, because the same command after an interruption has to take the same image.
[ -n "$back" ] || keep_old_image
replace_others
retire_old
[ -z "$back" ] || keep_old_image
say "The new version serves, with $(count $(instances)) instances."
# No image was replaced yet if only settings have changed since the installation.
if docker tag "$repository:previous" "$repository:previous" 2>/dev/null; then
    say "To return to the version before: deploy/compose/upgrade.sh --back"
fi

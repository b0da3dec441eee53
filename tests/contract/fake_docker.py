"""Stands in for `docker` in the tests of deploy/compose/upgrade.sh. Its state is a JSON file.

It knows the commands that the script uses, as Docker and Compose were seen to answer them. A call
that begins with one of `refused` does nothing. One that begins with one of `interrupted` is carried
out. Both fail.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_DOCKER_STATE"])
NAME = "service"

Json = dict[str, Any]


class Refused(Exception):
    """The command fails."""


def main(arguments: list[str]) -> None:
    state = json.loads(STATE.read_text(encoding="utf-8"))
    state["calls"].append(" ".join(arguments))
    try:
        require_no(state["refused"], state)
        for line in run(state, arguments):
            sys.stdout.write(f"{line}\n")
        require_no(state["interrupted"], state)
    except Refused as error:
        sys.exit(str(error))
    finally:
        STATE.write_text(json.dumps(state), encoding="utf-8")


def require_no(beginnings: list[str], state: Json) -> None:
    if state["calls"][-1].startswith(tuple(beginnings)):
        raise Refused(f"failed: {state['calls'][-1]}")


def run(state: Json, arguments: list[str]) -> list[str]:
    """Run a command, and return the lines that it prints."""
    if arguments[0] == "compose":
        return compose(state, arguments[1:])
    if arguments[0] in {"inspect", "logs", "tag"}:
        return about_one(state, arguments)
    change(state["containers"], state, arguments)
    return []


def compose(state: Json, arguments: list[str]) -> list[str]:
    match arguments:
        case ["ps", "--quiet", *options, service]:
            return [
                name
                for name, it in state["containers"].items()
                if it["service"] == service and ("--all" in options or it["status"] == "running")
            ]
        case ["build", "app"]:
            if state["build_fails"]:
                raise Refused("the build fails")
            state["tags"][NAME] = state["source"]
        case ["up", "--no-start", "--no-recreate", "--no-build", "--scale", scale]:
            create(state, int(scale.removeprefix("app=")))
        case ["ps", "--all", "--services"]:
            return sorted({it["service"] for it in state["containers"].values()})
        case ["up", "--build", "--wait"] | ["exec", *_]:
            pass
        case _:
            raise Refused(f"unknown command: {arguments}")
    return []


def about_one(state: Json, arguments: list[str]) -> list[str]:
    match arguments:
        case ["inspect", "--format", template, name]:
            return [render(template, name, state["containers"][name])]
        case ["tag", source, name]:
            if source not in state["tags"] and not source.startswith("image"):
                raise Refused(f"no such image: {source}")
            state["tags"][name] = state["tags"].get(source, source)
            return []
        case _:
            return ["a line of the log"]


def change(containers: Json, state: Json, arguments: list[str]) -> None:
    match arguments:
        case ["start", "--attach", name]:
            if state["migration_fails"]:
                raise Refused("the migration fails")
            containers[name]["status"] = "exited"
        case ["start", *names]:
            for name in names:
                broken = {containers[name]["image"], containers[name]["service"]}
                works = broken.isdisjoint(state["broken"])
                containers[name].update(
                    status="running", health="healthy" if works else "unhealthy"
                )
        case ["stop", *names]:
            for name in names:
                containers[name]["status"] = "exited"
        case ["rm", "--force", "--volumes", *names]:
            for name in names:
                del containers[name]
        case _:
            raise Refused(f"unknown command: {arguments}")


def create(state: Json, scale: int) -> None:
    """Create what is missing, as `up --no-start` does. Containers that exist stay as they are."""
    containers = state["containers"]
    services = [it["service"] for it in containers.values()]
    missing = ["app"] * (scale - services.count("app")) + [
        service for service in ("migrate", *state["others"]) if service not in services
    ]
    for service in missing:
        state["created"] += 1
        containers[f"{service}-{state['created']}"] = {
            "service": service,
            "image": state["tags"][NAME],
            "status": "created",
            "health": "starting",
            "environment": state["environment"],
        }


def render(template: str, name: str, container: Json) -> str:
    environment = "\n".join(f"{key}={value}" for key, value in container["environment"].items())
    answers = {
        "{{.Image}}": container["image"],
        "{{.Name}}": name,
        "{{.Config.Image}}": "other" if container["service"] == "balancer" else NAME,
        '{{.Image}} {{index .Config.Labels "com.docker.compose.config-hash"}}': (
            f"{container['image']} {environment.encode().hex()}"
        ),
        "{{range .Config.Env}}{{println .}}{{end}}": environment,
        (
            "{{.State.Status}} {{with .State.Health}}{{.Status}}{{else}}healthy{{end}} "
            "{{.RestartCount}}"
        ): f"{container['status']} {container['health']} 0",
    }
    return str(answers[template])


if __name__ == "__main__":
    main(sys.argv[1:])

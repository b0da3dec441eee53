"""Renames the project: `make rename name=order-desk`.

The name has two forms: `order-desk`, and the title "Order desk". They are replaced only in the
places that mean the project, so that a feature or a word with the same name stays as it is. The
change log and the decision records are history, and are not changed.

Only the standard library is imported: copier runs `python -m dev.rename NAME` before any package is
installed (see copier.yml).
"""

import json
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from dev.terminal import CommandError, say
from dev.working_tree import git, require_clean_tree

ANSWERS = Path(".copier-answers.yml")
PROJECT = Path("pyproject.toml")
LONGEST_NAME = 40  # the uid of a Grafana dashboard; a Kubernetes namespace may have 63 characters
SPELLINGS = {"api": "API", "fastapi": "FastAPI"}

# Regular expressions. NAME and TITLE stand for the two forms of the name.
PLACES = {
    "pyproject.toml": [r'^\[project\]\nname = "NAME"'],
    "README.md": [r"\A# TITLE$"],
    ".env.example": ["^#AUTH_ISSUER=NAME$", "^#AUTH_AUDIENCE=NAME$"],
    ".devcontainer/devcontainer.json": ['^  "name": "TITLE"'],
    "app/main.py": ['title="TITLE"'],
    "app/infra/security/settings.py": ['issuer: str = "NAME"', 'audience: str = "NAME"'],
    "docker-compose.yml": ["^  image: NAME$"],
    "deploy/grafana/service.json": ['^  "uid": "NAME"', '^  "title": "TITLE"'],
    "deploy/kubernetes/base/kustomization.yaml": ["/part-of: NAME}"],
    "deploy/kubernetes/base/network-policy.yaml": ["/part-of: NAME}"],
    "deploy/kubernetes/components/ingress/ingress.yaml": ["middlewares: NAME-no-upgrade"],
    "deploy/kubernetes/components/valkey/kustomization.yaml": ["/part-of: NAME}"],
    "deploy/kubernetes/overlays/production/kustomization.yaml": [
        "^namespace: NAME$",
        "newName: .*/NAME(?=$| )",
    ],
    "docs/deployment/kubernetes.md": ["create namespace NAME$", "kubectl -n NAME ", "/NAME:"],
    "tests/contract/openapi.json": ['^    "title": "TITLE"'],  # the one in `info`
}


def rename(text: str, template: str | None = None) -> None:
    """Rename the project, and say which files changed. `template` is the URL of the template."""
    require_clean_tree()
    old, new = current_name(), parse_name(text)
    if old == new:
        say(f"The project is already called {new}.")
        if template:
            record_template(new, template)
        return
    replace_name(new)
    record_template(new, template)
    if remaining := files_with(old):
        say(f"\nThese files still contain {old!r}. Change what means the project:")
        say("\n".join(f"  {path}" for path in remaining))
    say(f"\nThe project is now called {new}. Look at the change with `git diff`, then run:")
    say("  make check test")


def parse_name(text: str) -> str:
    """Return the name in its kebab-case form."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", text) or len(text) > LONGEST_NAME:
        raise CommandError(
            f"{text!r} cannot be the name of the project. Use at most {LONGEST_NAME} lower-case "
            "letters, digits and single hyphens, and begin with a letter: order-desk"
        )
    name = text.replace("_", "-")
    locked = Path("requirements/dev.txt").read_text(encoding="utf-8")
    if re.search(rf"^{name}==", locked, re.MULTILINE):
        raise CommandError(f"The service uses a package that is called {name}. Use another name.")
    return name


def title_of(name: str) -> str:
    """Return the form for people: "Order desk" for `order-desk`."""
    words = [SPELLINGS.get(word, word) for word in name.split("-")]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


def current_name() -> str:
    return _value_of("name")


def _value_of(key: str) -> str:
    """Return a value of the section [project]. Without tomllib, which copier's Python may lack."""
    section = _read(PROJECT).partition("[project]\n")[2].partition("\n[")[0]
    found = re.search(rf'^{key} = "(.+)"$', section, re.MULTILINE)
    if not found:
        raise CommandError(f'{PROJECT} has no line `{key} = "…"` in its section [project].')
    return found[1]


def replace_name(new: str) -> None:
    old = current_name()
    for path, places in PLACES.items():
        if Path(path).exists():
            _replace_in(Path(path), places, old, new)


def _replace_in(path: Path, places: list[str], old: str, new: str) -> None:
    text = original = _read(path)
    total = 0
    for place in places:
        form, old_form, new_form = ("NAME", old, new)
        if "TITLE" in place:
            form, old_form, new_form = ("TITLE", title_of(old), title_of(new))
        before, after = place.split(form)
        pattern = rf"({before}){re.escape(old_form)}({after})"
        text, count = re.subn(pattern, rf"\g<1>{new_form}\g<2>", text, flags=re.MULTILINE)
        total += count
        if not count and old != new:
            say(f"  {path}: nothing matches {place.replace(form, old_form)!r}: left as it is")
    if text != original:
        path.write_text(text, encoding="utf-8")
        say(f"  {path}: {total} replaced")


def record_template(name: str, template: str | None) -> None:
    """Write what `copier update` needs: the URL of the template, its commit, and the name."""
    url = template or git("remote", "get-url", "origin")
    if ANSWERS.exists():
        changed = {"name": name}
        if template:
            changed["_src_path"] = copier_source(template)
        kept = [line for line in _read(ANSWERS).splitlines() if line.split(":")[0] not in changed]
        _write_answers(kept, changed)
    elif url:
        start = _first_version(origin_is_template=not template)
        answers = {"_commit": start, "_src_path": copier_source(url), "name": name}
        _write_answers(["# Written by `make rename` for `copier update`."], answers)
    else:
        say(f"  {ANSWERS}: not written, because there is no remote `origin`.")
        say(f"    To upgrade with copier, run: make rename name={name} template=URL")


def _first_version(*, origin_is_template: bool) -> str:
    """Return the tag or the commit of the template that the project began with."""
    if origin_is_template and (start := git("merge-base", "HEAD", "origin/HEAD")):
        return git("describe", "--tags", "--always", start) or start
    return git("describe", "--tags", "--abbrev=0") or f"v{_value_of('version')}"


def _write_answers(lines: list[str], answers: dict[str, str]) -> None:
    lines = [*lines, *(f"{key}: {json.dumps(value)}" for key, value in answers.items())]
    ANSWERS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"  {ANSWERS}: {', '.join(f'{key} is {value}' for key, value in answers.items())}")


def copier_source(url: str) -> str:
    """Return the URL as copier recognises it, without a password, such as the token of a CI job."""
    parts = urlsplit(url)
    if parts.scheme.removeprefix("git+") in {"http", "https"}:
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if url.startswith(("git+", "git@", "gh:", "gl:")) or url.endswith(".git"):
        return url
    return url if Path(url).exists() else f"git+{url}"


def files_with(name: str) -> list[str]:
    """Return the tracked files that still contain a form of the name as a word of its own."""
    history = [":!CHANGELOG.md", ":!docs/decisions", f":!{ANSWERS}"]
    found = git("grep", "-lwF", "-e", name, "-e", title_of(name), "--", ".", *history)
    return found.splitlines() if found else []


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":  # copier: the tree need not be clean, and copier writes the answers
    try:
        replace_name(parse_name(sys.argv[1]))
    except CommandError as error:
        sys.exit(str(error))

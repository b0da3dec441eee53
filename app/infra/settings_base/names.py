"""The names of settings: which ones exist, and which one a misspelt name was meant to be."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Two edits are a letter too many, one too few, a wrong one or two that changed places.
MOST_EDITS = 2
# Kubernetes sets these for each service of a namespace: SERVER_PORT=tcp://10.0.0.1:80 for `server`.
SERVICE_LINK = re.compile(
    r"\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
SERVICE_LINK_PORT = re.compile(r"(?:tcp|udp|sctp)://.*")
# Gunicorn sets the first in its own environment, and graceful_gunicorn the second.
NOT_SETTINGS = {"SERVER_SOFTWARE", "METRICS_MASTER"}
SECRETS_DIR = "SECRETS_DIR"
NEAREST = "the nearest one is {}: correct or remove it."
# Some programs take the parts of an address one by one. Here the URL has them.
PARTS_OF_URL = {"HOST", "PORT", "USER", "USERNAME", "PASSWORD", "NAME", "DB", "DSN", "SSLMODE"}
PORT = "PORT"  # what Cloud Run, Heroku and Render set


def is_service_link(name: str, value: str) -> bool:
    """Tell whether Kubernetes set this variable for one of the namespace's services."""
    is_port = name.endswith("_PORT") and SERVICE_LINK_PORT.fullmatch(value) is not None
    return is_port or SERVICE_LINK.fullmatch(name) is not None


@dataclass(frozen=True)
class SettingNames:
    """The names of all sections, DATABASE among them, and of all settings, such as REPLICAS."""

    sections: frozenset[str]
    settings: frozenset[str]

    def misspelt(self, names: Iterable[str]) -> dict[str, str]:
        """Return the names that look like a setting and are none, each with what to do about it.

        Such a name is that of a section, or begins with its prefix, or is within two edits of the
        name of a setting.
        """
        candidates = sorted({*self.settings, SECRETS_DIR})
        found: dict[str, str] = {}
        for name in set(names).difference(candidates, NOT_SETTINGS):
            section, _, key = name.partition("_")
            if section in self.sections:
                found[name] = self._cure(section, key)
                continue
            edits, nearest = min((_edits(name, setting), setting) for setting in candidates)
            if edits <= MOST_EDITS:
                found[name] = NEAREST.format(nearest)
        return dict(sorted(found.items()))

    def _cure(self, section: str, key: str) -> str:
        """Say which setting of the section is meant: it goes on after `key`, or is like it."""
        url = f"{section}_URL"
        if key in PARTS_OF_URL and url in self.settings:
            return f"its value is a part of {url}: write it there, and remove this."
        prefix = f"{section}_"
        keys = [name.removeprefix(prefix) for name in self.settings if name.startswith(prefix)]
        longer = [other for other in keys if not key or other.startswith(f"{key}_")]
        edits, nearest = min((_edits(key, other), other) for other in longer or keys)
        if longer or edits <= max(MOST_EDITS, len(key) // 3):
            return NEAREST.format(prefix + nearest)
        return "and no setting has a similar name: remove it (.env.example lists every setting)."


def _edits(one: str, other: str) -> int:
    """Count the letters to insert, remove or replace (the Levenshtein distance)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, before + (letter != wanted)),
            )
    return row[-1]

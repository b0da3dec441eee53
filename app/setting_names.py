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
# Gunicorn sets the first in its own environment, and app/infra/server/metrics_files.py the second.
NOT_SETTINGS = {"SERVER_SOFTWARE", "METRICS_MASTER"}
SECRETS_DIR = "SECRETS_DIR"
PORT = "PORT"  # what Cloud Run, Heroku and Render set


def is_service_link(name: str, value: str) -> bool:
    """Tell whether Kubernetes set this variable for one of the namespace's services."""
    is_port = name.endswith("_PORT") and SERVICE_LINK_PORT.fullmatch(value) is not None
    return is_port or SERVICE_LINK.fullmatch(name) is not None


@dataclass(frozen=True)
class Names:
    """The names of all sections, DATABASE among them, and of all settings, such as REPLICAS."""

    sections: frozenset[str]
    settings: frozenset[str]

    def misspelt(self, names: Iterable[str]) -> dict[str, str]:
        """Return the names that look like a setting and are none, each with the nearest setting.

        Such a name is that of a section, or begins with its prefix, or is within two edits of the
        name of a setting.
        """
        prefixes = tuple(f"{section}_" for section in self.sections)
        candidates = sorted({*self.settings, SECRETS_DIR})
        found: dict[str, str] = {}
        for name in set(names).difference(candidates, NOT_SETTINGS):
            edits, nearest = min((_edits(name, setting), setting) for setting in candidates)
            if edits <= MOST_EDITS or f"{name}_".startswith(prefixes):
                found[name] = nearest
        return dict(sorted(found.items()))


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

"""Finds names that look like a misspelt setting, and suggests the setting that was meant."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_EDITS = 2  # two letters are missing, added or wrong, or two letters are swapped
SECRETS_DIR = "SECRETS_DIR"
PORT = "PORT"  # Cloud Run, Heroku and Render set it
# These begin like a setting. Gunicorn sets SERVER_SOFTWARE, and graceful_gunicorn METRICS_MASTER.
NOT_SETTINGS = {"SERVER_SOFTWARE", "METRICS_MASTER"}
# Other programs have a setting for each part of an address. This one has a URL.
PARTS_OF_URL = {"HOST", "PORT", "USER", "USERNAME", "PASSWORD", "NAME", "DB", "DSN", "SSLMODE"}
NEAREST = "the nearest one is {}: correct or remove it."
# Kubernetes sets these variables for each service, such as SERVER_PORT=tcp://10.0.0.1:80.
SERVICE_VARIABLE = re.compile(
    r"\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
SERVICE_PORT_VALUE = re.compile(r"(?:tcp|udp|sctp)://.*")


def is_service_variable(name: str, value: str) -> bool:
    """Return whether Kubernetes set this variable for a service in the same namespace."""
    is_port = name.endswith("_PORT") and SERVICE_PORT_VALUE.fullmatch(value) is not None
    return is_port or SERVICE_VARIABLE.fullmatch(name) is not None


@dataclass(frozen=True)
class SettingNames:
    """The names of all sections, such as DATABASE, and of all settings, such as DATABASE_URL."""

    sections: frozenset[str]
    settings: frozenset[str]

    def find_misspelt(self, names: Iterable[str]) -> dict[str, str]:
        """Return the names that look like a setting but are none, with a hint for each.

        Such a name starts with the name of a section, or is within two edits of a setting.
        """
        known = sorted({*self.settings, SECRETS_DIR})
        found: dict[str, str] = {}
        for name in sorted(set(names).difference(known, NOT_SETTINGS)):
            section = next((one for one in self.sections if f"{name}_".startswith(f"{one}_")), None)
            if section is not None:
                key = name.removeprefix(section).removeprefix("_")
                found[name] = self._hint(section, key)
                continue
            # The distance is at least the difference in length. Most settings are not compared.
            distances = [
                (_edit_distance(name, setting), setting)
                for setting in known
                if abs(len(setting) - len(name)) <= MAX_EDITS
            ]
            distance, nearest = min(distances, default=(MAX_EDITS + 1, ""))
            if distance <= MAX_EDITS:
                found[name] = NEAREST.format(nearest)
        return found

    def _hint(self, section: str, key: str) -> str:
        """Suggest a setting of the section that starts with `key`, or is similar to it."""
        url = f"{section}_URL"
        if key in PARTS_OF_URL and url in self.settings:
            return f"its value is a part of {url}: write it there, and remove this."
        prefix = f"{section}_"
        keys = [name.removeprefix(prefix) for name in self.settings if name.startswith(prefix)]
        longer = [other for other in keys if not key or other.startswith(f"{key}_")]
        distance, nearest = min((_edit_distance(key, other), other) for other in longer or keys)
        if longer or distance <= max(MAX_EDITS, len(key) // 3):
            return NEAREST.format(prefix + nearest)
        return "and no setting has a similar name: remove it (.env.example lists every setting)."


def _edit_distance(one: str, other: str) -> int:
    """Return the Levenshtein distance. The ratio of `difflib` would match unrelated names too."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != wanted))
            diagonal, row[j] = row[j], best
    return row[-1]

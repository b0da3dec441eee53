"""The features of the service: their order, and what belongs to each of them."""

import re
from dataclasses import dataclass
from pathlib import Path

from dev.imports import module_of
from dev.planted import PLANTED, Planted
from dev.source_edits import feature_layers

PROJECT = Path(__file__).parents[1]


def features_in_order(project: Path = PROJECT) -> list[str]:
    """Return the names of the features in pyproject.toml, each parent before its children."""
    layers = feature_layers((project / "pyproject.toml").read_text(encoding="utf-8"))
    return [name.strip() for layer in reversed(layers) for name in layer.split("|")]


@dataclass(frozen=True)
class Feature:
    """A feature, and the places that its name determines."""

    name: str

    @property
    def folders(self) -> tuple[str, str]:
        return f"app/features/{self.name}", f"tests/features/{self.name}"

    @property
    def demo(self) -> tuple[str, str]:
        return f"dev/demo/{self.name}.py", f"dev/demo/{self.name}.toml"

    @property
    def modules(self) -> tuple[str, ...]:
        return *map(module_of, self.folders), module_of(self.demo[0])

    @property
    def path(self) -> re.Pattern[str]:
        """The path of its routes."""
        return re.compile(rf"/v1/{self.name.replace('_', '-')}(?![\w-])")

    @property
    def planted(self) -> Planted:
        return PLANTED.get(self.name, Planted())

    def owns(self, path: str) -> bool:
        """Whether a file is in a folder of the feature, or is its demo data."""
        return path.startswith(tuple(f"{folder}/" for folder in self.folders)) or path in self.demo

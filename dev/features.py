"""The features of the service, in the order in which they import each other."""

from pathlib import Path

from dev.source_edits import feature_layers

PROJECT = Path(__file__).parents[1]


def features_in_order(project: Path = PROJECT) -> list[str]:
    """Return the names of the features in pyproject.toml, each parent before its children."""
    layers = feature_layers((project / "pyproject.toml").read_text(encoding="utf-8"))
    return [name.strip() for layer in reversed(layers) for name in layer.split("|")]

"""The features of the service, in the order in which they import each other."""

import tomllib
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]


def features_in_order(project: Path = PROJECT) -> list[str]:
    """Return the names of the features in pyproject.toml, each parent before its children."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    contracts: list[dict[str, Any]] = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    [layers] = [one["layers"] for one in contracts if one.get("containers") == ["app.features"]]
    return [name.strip() for layer in reversed(layers) for name in layer.split("|")]

"""The fault programme and the benchmarks, which drive the service through routes of features."""

from pathlib import Path

from dev.features import Feature
from dev.imports import Files, importers, module_of

DRIVERS = ("tests/faults/", "benchmarks/")


def drivers_without(feature: Feature, files: Files) -> set[str]:
    """Return the files of both that are of no use without the feature.

    These contain a path of its routes, or import such a file, or are helpers of such files alone.
    """
    drivers = {path: text for path, text in files.items() if path.startswith(DRIVERS)}
    gone = {path for path, text in drivers.items() if feature.path.search(text)}
    while gone:
        kept = {path: text for path, text in files.items() if path not in gone}
        candidates = {path: text for path, text in drivers.items() if path not in gone}
        found = set(importers(candidates, *map(module_of, gone)))
        found |= {
            path
            for path in candidates
            if not Path(path).name.startswith(("test_", "conftest.", "__init__."))
            and any(_uses(files[other], path) for other in gone)
            and not any(_uses(text, path) for other, text in kept.items() if other != path)
        }
        if not found:
            break
        gone |= found
    return gone


def _uses(text: str, path: str) -> bool:
    """Whether a text names a file: as a module, by its path, or by its name in quotes."""
    return any(name in text for name in (module_of(path), path, f'"{Path(path).name}"'))

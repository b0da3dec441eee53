"""A release reads no cache entry that other code has written."""

from pathlib import Path

import pytest

from app.infra.cache.wiring import cache_config
from app.settings import Settings
from coherent_cache import code_digest

PROJECT = Path(__file__).parents[3]


def version_of_new_process(settings: Settings) -> str:
    code_digest.cache_clear()
    try:
        return cache_config(settings.valkey, settings.cache).code_version
    finally:
        code_digest.cache_clear()


@pytest.mark.parametrize(
    "file",
    [
        "app/infra/web/stored_response.py",
        "app/features/users/cached_user.py",
        "coherent_cache/entry.py",
        "graceful_gunicorn/encoded_head.py",
    ],
)
def test_code_that_decides_what_an_entry_contains_is_part_of_the_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    before = version_of_new_process(settings)
    assert version_of_new_process(settings) == before
    read_bytes = Path.read_bytes

    def changed(path: Path) -> bytes:
        return read_bytes(path) + b"# changed" * (path == PROJECT / file)

    monkeypatch.setattr(Path, "read_bytes", changed)
    assert version_of_new_process(settings) != before

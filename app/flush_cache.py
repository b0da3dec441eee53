"""Empty the cache, after rows were changed or restored by hand: `python -m app.flush_cache`."""

import asyncio

from app.infra.cache.wiring import cache_config
from app.settings import load_settings
from coherent_cache import NotFlushed, flush_cache


def main() -> None:
    settings = load_settings()
    if not settings.cache.enabled:
        raise SystemExit("CACHE_ENABLED is false, so there is no cache to empty.")
    try:
        removed = asyncio.run(flush_cache(cache_config(settings.valkey, settings.cache)))
    except NotFlushed as error:
        raise SystemExit(str(error)) from None
    print(f"The cache is empty: {removed} keys were removed.")  # noqa: T201 - a command


if __name__ == "__main__":
    main()

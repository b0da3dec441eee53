"""Opens the store for files that the settings name. S3 connects at its first use."""

import logging
import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.store import LocalStore, S3Store

from app.infra.storage.settings import StorageSettings
from app.infra.storage.store import PART_FACTOR, ObjectStore

if TYPE_CHECKING:  # it does not exist at run time
    from obstore.store import S3Config

logger = logging.getLogger(__name__)

MAX_RETRIES = 1
UNFINISHED = "*#[0-9]*"  # how LocalStore names an object that is being written
UNFINISHED_SECONDS = 86_400
NOTHING_SET = (
    "There is no store for files, so uploads are refused with 503. Set STORAGE_BUCKET, or "
    "STORAGE_FOLDER if there is one machine only."
)
NO_FOLDER = (
    "STORAGE_FOLDER cannot be used (%s), so uploads are refused with 503. Set it to a folder that "
    "the user of this process may write to, and restart the service."
)


def open_store(settings: StorageSettings) -> ObjectStore:
    """Return the store. One that cannot be used is logged, and refuses all calls."""
    if settings.bucket is not None:
        return ObjectStore(_open_bucket(settings, settings.bucket), settings.timeout_seconds)
    if settings.folder is None:
        logger.warning(NOTHING_SET)
        return ObjectStore(None, settings.timeout_seconds)
    store = _open_folder(settings.folder)
    return ObjectStore(store, settings.timeout_seconds, is_broken=store is None)


def _open_bucket(settings: StorageSettings, bucket: str) -> S3Store:
    config: S3Config = {"bucket": bucket, "region": settings.region}
    if settings.access_key_id is not None and settings.secret_access_key is not None:
        config["access_key_id"] = settings.access_key_id.get_secret_value()
        config["secret_access_key"] = settings.secret_access_key.get_secret_value()
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint.rstrip("/")
    connect = timedelta(seconds=settings.timeout_seconds)
    longest = PART_FACTOR * connect  # `ObjectStore` has a shorter limit for most calls
    return S3Store(
        config=config,
        client_options={"allow_http": True, "timeout": longest, "connect_timeout": connect},
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": longest},
    )


def _open_folder(folder: Path) -> LocalStore | None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        logger.error(NO_FOLDER, error.strerror)  # noqa: TRY400 - no traceback for a setting
        return None
    return LocalStore(folder)


def delete_unfinished(settings: StorageSettings) -> None:
    """Delete what processes left in the folder that were killed while they wrote an object.

    A bucket has lifecycle rules for this. Call it in a thread: the folder may have many files.
    """
    if settings.folder_in_use is None:
        return
    old = time.time() - UNFINISHED_SECONDS
    for file in settings.folder_in_use.rglob(UNFINISHED):
        with suppress(FileNotFoundError):  # it has been completed meanwhile
            if file.stat().st_mtime < old:
                file.unlink()

"""The settings STORAGE_…."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from app.infra.settings_base.section import Section
from app.infra.validation.fields import Url

DEVELOPMENT_FOLDER = Path(".data/objects")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class StorageSettings(Section):
    """Where uploads and archives are kept: in an S3 bucket, or in a folder if there is no bucket.

    In development without either, it is a folder. In production without either, nothing can be
    stored. `folder_shared` states that all instances and job workers see the same folder.
    Without keys, S3 uses the role of the machine, as the AWS tools do.
    """

    folder: Path | None = None
    folder_shared: bool = False
    bucket: str | None = None
    endpoint: Url | None = None
    region: Annotated[str, Field(min_length=1, max_length=50)] = "us-east-1"
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    timeout_seconds: Annotated[float, Field(ge=0.1, le=60)] = 3

    def with_switches(self, *, is_development: bool) -> Self:
        """Return a copy with the default of development, which has a folder."""
        if not is_development or self.bucket or self.folder:
            return self
        return self.model_copy(update={"folder": DEVELOPMENT_FOLDER})

    @property
    def folder_in_use(self) -> Path | None:
        """The folder of the files, or None if they are in a bucket or nowhere."""
        return None if self.bucket else self.folder

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, bucket: str | None) -> str | None:
        if bucket is not None and not BUCKET.fullmatch(bucket):
            raise ValueError("the name of an S3 bucket: lower-case letters, digits and hyphens")
        return bucket

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(
                "STORAGE_ACCESS_KEY_ID and STORAGE_SECRET_ACCESS_KEY belong together: set both, or "
                "none of them"
            )
        return self

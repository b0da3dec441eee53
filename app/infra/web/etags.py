"""Entity tags, and JSON responses that have one."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response


def entity_tag(body: bytes, version: int | None = None) -> str:
    """Return a strong entity tag: a digest of the body, after the version of the resource if given.

    `Precondition` compares the version only, so a change of the format does not fail an update.
    """
    digest = blake2b(body, digest_size=8).hexdigest()
    return f'"{digest}"' if version is None else f'"{version}-{digest}"'


def tagged_response(
    schema: TypeAdapter[Any],
    value: object,
    version: int,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return `value` as JSON with its entity tag.

    It is validated and serialised once, here. If the endpoint returned a model, the framework would
    do both again after the entity tag was computed.
    """
    body = schema.dump_json(schema.validate_python(value, from_attributes=True))
    etag = {"ETag": entity_tag(body, version)}
    return Response(body, status, {**etag, **(headers or {})}, media_type="application/json")

"""Strong validators, and JSON responses that carry one."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response


def entity_tag(body: bytes, version: int | None = None) -> str:
    """Return a strong validator: the digest of the bytes, after the version of what they show.

    The version alone tells whether the thing itself was edited: `Precondition` compares that.
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
    """Answer with `value` as JSON and its entity tag.

    It is validated and serialised here, once. Returned as a model, the framework would do both
    again after the entity tag was computed.
    """
    body = schema.dump_json(schema.validate_python(value, from_attributes=True))
    etag = {"ETag": entity_tag(body, version)}
    return Response(body, status, {**etag, **(headers or {})}, media_type="application/json")

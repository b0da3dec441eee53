"""Which query parameters a route takes, and the refusal of one that is sent more than once."""

from collections.abc import Collection, Iterator, Mapping
from types import UnionType
from typing import Annotated, Union, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.types import Scope


def refuse_repeated(scope: Scope, parameters: Mapping[str, bool]) -> None:
    """Raise a validation error if a parameter that takes one value is sent several times.

    FastAPI would take the last value, and a proxy or a cache in front of it perhaps the first.
    """
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    query = scope["query_string"].decode("latin-1")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name in seen and parameters.get(name) is False:
            repeated[name] = None
        seen.add(name)
    if repeated:
        message = "Input should be sent once"
        raise RequestValidationError(
            [{"type": "repeated", "loc": ("query", name), "msg": message} for name in repeated]
        )


def query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield the name of each query parameter of an endpoint, and whether it takes many values."""
    for parameter in dependant.query_params:
        annotation = parameter.field_info.annotation
        if (model := _model_in(annotation)) is not None:
            for name, field in model.model_fields.items():
                yield field.alias or name, _takes_many(field.annotation)
        else:
            yield parameter.alias, _takes_many(annotation)
    for dependency in dependant.dependencies:
        yield from query_parameters(dependency)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model whose fields are the parameters, also if the model is optional."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _takes_many(annotation: object) -> bool:
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        return any(map(_takes_many, get_args(annotation)))
    kind = origin or annotation
    return (
        isinstance(kind, type)
        and issubclass(kind, Collection)
        and not issubclass(kind, (str, bytes, Mapping))
    )

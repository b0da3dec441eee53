"""Which query parameters a route takes, and the refusal of one that is sent more than once."""

from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel


class StrictRoute(APIRoute):
    """A route that answers 422 when a parameter that takes one value is sent several times.

    FastAPI would take the last value, a proxy or a cache before the service perhaps the first.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Check the query before the endpoint and its dependencies run."""
        handle = super().get_route_handler()
        parameters = dict(query_parameters(self.dependant))
        single = frozenset(name for name, takes_many in parameters.items() if not takes_many)

        async def handle_strictly(request: Request) -> Response:
            if request.scope["query_string"]:
                refuse_repeated(request, single)
            return await handle(request)

        return handle_strictly if single else handle


def refuse_repeated(request: Request, single: Collection[str]) -> None:
    """Raise a validation error that names each parameter of `single` that was sent repeatedly."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for name, _ in request.query_params.multi_items():
        if name in seen and name in single:
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
    """Return the model whose fields are the parameters, also of a model that may be left out."""
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

"""Checks the arguments of jobs, and stores them as JSON.

Arguments are kept in the database and can be read by everybody who may read it. So their types are
restricted to values that identify something: a job looks up by them what it needs.
"""

import inspect
from collections.abc import Callable
from datetime import date, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from app.infra.observability.log_fields import SECRET
from app.infra.validation.fields import Email

TYPES = (bool, int, UUID, date, datetime)
ALLOWED = "bool, int, UUID, date, datetime, an Enum, Email, or one of these | None"
OPTIONS = ("delay", "unique")  # the names that `enqueue` uses itself
STRICT = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, protected_namespaces=())


class InvalidJob(Exception):
    """A job is declared or enqueued in a way that cannot work."""


class Arguments:
    """The keyword arguments of one job function."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """Read the signature of the function. Raises `InvalidJob`."""
        self._name = name
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            raise InvalidJob(f"The first parameter of the job {name} has to be its JobContext.")
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in parameters[1:]:
            annotation = hints.get(parameter.name)
            self._check(parameter, annotation)
            is_required = parameter.default is parameter.empty
            fields[parameter.name] = (annotation, ... if is_required else parameter.default)
        self.names = frozenset(fields)
        self.required = frozenset(name for name, (_, default) in fields.items() if default is ...)
        self._model: type[BaseModel] = create_model(
            f"{name} arguments", __config__=STRICT, **fields
        )

    def to_json(self, arguments: dict[str, object]) -> bytes:
        """Return the arguments as JSON. Raises `InvalidJob`, which names no values.

        Defaults are left out. So a worker of the last release, which does not know a new argument,
        accepts the job as long as nobody uses the argument.
        """
        try:
            return self._model(**arguments).model_dump_json(exclude_defaults=True).encode()
        except ValidationError as error:
            raise InvalidJob(self._sentence(error)) from None

    def from_json(self, stored: bytes | None) -> dict[str, object]:
        """Return the arguments for a call. Raises `InvalidJob`: other code may have stored them."""
        try:
            model = self._model.model_validate_json(stored or b"{}")
        except ValidationError as error:
            raise InvalidJob(self._sentence(error)) from None
        return {name: getattr(model, name) for name in self.names}

    def _sentence(self, error: ValidationError) -> str:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors)
        return f"The arguments of the job {self._name} do not fit its function: {found}."

    def _check(self, parameter: inspect.Parameter, annotation: object) -> None:
        name, place = parameter.name, f"The argument {parameter.name} of the job {self._name}"
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise InvalidJob(f"{place} has to be keyword-only: write it after a *.")
        if name in OPTIONS:
            raise InvalidJob(f"{place} has a name that `enqueue` uses itself. Choose another name.")
        if SECRET.search(name):
            raise InvalidJob(
                f"{place} sounds like a secret, and arguments are stored as they are. Pass an id, "
                "and let the job find or create the secret."
            )
        if not _is_allowed(annotation):
            raise InvalidJob(f"{place} has a type that cannot be stored. Use {ALLOWED}.")


def _is_allowed(annotation: object) -> bool:
    if annotation == Email:
        return True
    if get_origin(annotation) in {Union, UnionType}:
        return all(one is NoneType or _is_allowed(one) for one in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _is_allowed(get_args(annotation)[0])
    return isinstance(annotation, type) and issubclass(annotation, (*TYPES, Enum))

"""Numbers. Import them from `app.infra.validation.fields`.

Pydantic's own types accept more than their JSON Schema says: `true` and "1" as an integer, and
1.5 and "1e3" as a decimal number.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from app.infra.validation._words import Currency

MAX_WHOLE, MIN_WHOLE = 2**63 - 1, -(2**63)  # BIGINT
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # each number has one spelling

_in_body: ContextVar[bool] = ContextVar("in_body", default=False)


class Input(BaseModel):
    """A JSON request body. Unknown fields are refused, and so are numbers that are sent as text.

    A model for the fields of a form or a query is a `BaseModel`, because there numbers are text.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _mark_as_body(cls, data: Any, validate: ModelWrapValidatorHandler[Any]) -> Any:
        token = _in_body.set(True)
        try:
            return validate(data)
        finally:
            _in_body.reset(token)


@dataclass(frozen=True, slots=True)
class DecimalText:
    """`Annotated[Decimal, DecimalText(12, 2)]`: a decimal number as text, such as "12.50".

    No digit is lost in a binary float on the way. It has at most `digits` digits, `places` of them
    after the point, like `Numeric(digits, places)`, and is returned with all its places.
    """

    digits: int
    places: int
    signed: bool = True

    @property
    def pattern(self) -> str:
        whole = self.digits - self.places
        before = f"(?:0|[1-9][0-9]{{0,{whole - 1}}})" if whole > 0 else "0"
        after = rf"(?:\.[0-9]{{1,{self.places}}})?" if self.places else ""
        return ("-?" if self.signed else "") + before + after

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        expression = re.compile(self.pattern)

        def parse(value: object) -> Decimal:
            text = f"{value:f}" if isinstance(value, Decimal) else value
            if not isinstance(text, str) or not expression.fullmatch(text):
                raise PydanticCustomError(
                    "decimal_text",
                    "Input should be a text such as 12.5, with at most {digits} digits, "
                    "{places} of them after the point",
                    {"digits": self.digits, "places": self.places},
                )
            whole, _, fraction = text.partition(".")
            number = Decimal(f"{whole}.{fraction.ljust(self.places, '0')}")
            return number or abs(number)  # -0 is 0

        written = core_schema.plain_serializer_function_ser_schema(
            "{:f}".format, return_schema=core_schema.str_schema(), when_used="json"
        )
        return core_schema.no_info_plain_validator_function(parse, serialization=written)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        longest = self.digits + len("-0.")
        return {"type": "string", "maxLength": longest, "pattern": f"^{self.pattern}$"}


def _whole(value: Any) -> int:
    """Return the integer. A body may contain 1 or 1.0, but not `true`. A URL contains digits."""
    is_float = isinstance(value, float) and value.is_integer()
    is_number = is_float or (isinstance(value, int) and not isinstance(value, bool))
    is_digits = isinstance(value, str) and not _in_body.get() and INTEGER.fullmatch(value)
    if not is_number and not is_digits:
        raise PydanticCustomError("whole_number", "Input should be a whole number")
    if not MIN_WHOLE <= (number := int(value)) <= MAX_WHOLE:
        # Pydantic's own message would show this limit instead of that of the field.
        raise PydanticCustomError("whole_number", "Input should be a whole number of 64 bits")
    return number


WHOLE = BeforeValidator(_whole)
# A number without a fraction that BIGINT can hold. `Annotated[Whole, Field(ge=0)]` accepts less.
Whole = Annotated[int, Field(ge=MIN_WHOLE, le=MAX_WHOLE), WHOLE]


class Money(Input):
    """An amount in minor units: 1250 with EUR is 12.50 euros, and with JPY it is 1250 yen."""

    amount: Whole
    currency: Currency

"""`/test/values`: routes and a table with a field of each input type."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, MetaData, Numeric, String, select
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.base import Base
from app.infra.dependencies import ReadSession, WriteSession
from app.infra.validation.fields import (
    MAX_SLUG_LENGTH,
    MAX_URL_LENGTH,
    Choice,
    Date,
    DateTime,
    DecimalText,
    Id,
    Input,
    Money,
    Slug,
    Url,
    Whole,
)
from app.infra.web.openapi import problems

Price = Annotated[Decimal, DecimalText(12, 2)]
Few = Annotated[Whole, Field(ge=0, lt=10)]


class Status(Choice):
    OPEN = "open"
    IN_REVIEW = "in review"
    DONE = "done"


class Separate(Base):
    """The table of these tests is not among those of the service."""

    __abstract__ = True
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)


class Value(Separate):
    __tablename__ = "test_values"

    day: Mapped[date]
    moment: Mapped[datetime]
    number: Mapped[int] = mapped_column(BigInteger)
    few: Mapped[int]
    total_amount: Mapped[int] = mapped_column(BigInteger)
    total_currency: Mapped[str] = mapped_column(String(3))
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    status: Mapped[Status]
    url: Mapped[str] = mapped_column(String(MAX_URL_LENGTH))
    slug: Mapped[str] = mapped_column(String(MAX_SLUG_LENGTH))

    @property
    def total(self) -> Money:
        return Money(amount=self.total_amount, currency=self.total_currency)


EXAMPLE: dict[str, Any] = {
    "day": "2026-02-28",
    "moment": "2026-02-28T12:00:00Z",
    "number": -3,
    "few": 3,
    "total": {"amount": 1250, "currency": "EUR"},
    "price": "12.50",
    "status": "open",
    "url": "https://example.com/a?b=c#d",
    "slug": "a-value",
}


class ValueWrite(Input):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    day: Date
    moment: DateTime
    number: Whole
    few: Few
    total: Money
    price: Price
    status: Status
    url: Url
    slug: Slug


class ValueRead(BaseModel):
    day: Date
    moment: DateTime
    number: Whole
    few: Few
    total: Money
    price: Price
    status: Status
    url: Url
    slug: Slug


router = APIRouter(prefix="/test/values")


@router.post("", status_code=201, response_model=ValueRead, responses=problems(413, 415, 422))
async def create_value(data: ValueWrite, session: WriteSession) -> Value:
    """Store the values, and return what the table has."""
    values = data.model_dump(exclude={"total"})
    total = {"total_amount": data.total.amount, "total_currency": data.total.currency}
    session.add(value := Value(**values, **total))
    await session.flush()
    await session.refresh(value)
    return value


@router.get("", response_model=list[ValueRead], responses=problems(422))
async def list_values(
    session: ReadSession,
    after: Id | None = None,
    day: Date | None = None,
    moment: DateTime | None = None,
    number: Whole | None = None,
    few: Few | None = None,
    price: Price | None = None,
    status: Status | None = None,
    url: Url | None = None,
    slug: Slug | None = None,
) -> Sequence[Value]:
    """Return the values that are equal to every parameter that is sent."""
    filters: dict[str, object] = {"day": day, "moment": moment, "number": number, "few": few}
    filters |= {"price": price, "status": status, "url": url, "slug": slug}
    chosen = [Value.id > after] if after else []
    chosen += [getattr(Value, name) == one for name, one in filters.items() if one is not None]
    found = select(Value).where(*chosen).order_by(Value.id).limit(10)
    return (await session.scalars(found)).all()

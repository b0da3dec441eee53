"""The declarative base of all models, and the names of constraints, which migrations rely on."""

import enum
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Enum, Identity, MetaData, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from coherent_cache import outbox_table

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


# An enum is stored as text, by the values of its members, with a CHECK constraint. A migration can
# add and remove words by replacing the constraint. An enum type of PostgreSQL can only grow.
CHOICE = Enum(
    enum.Enum,
    native_enum=False,
    create_constraint=True,
    length=40,
    values_callable=lambda kind: [str(member.value) for member in kind],
)


class Base(DeclarativeBase):
    """Gives each table a 64-bit identity and a creation time."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        enum.Enum: CHOICE,
    }
    # Fetch values that the server computes with RETURNING, not with a second statement.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - declared so by the base class

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=1)


outbox_table(Base.metadata)

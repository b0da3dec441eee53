"""Requests and responses of `/v1/admin/users`."""

from pydantic import MISSING, ConfigDict, StrictBool

from app.features.users.models import Role
from app.features.users.schemas import UserRead
from app.infra.validation.fields import Input
from app.infra.validation.page_schema import PageRead


class AccountUpdate(Input):
    """What an administrator may change of an account."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "admin"}]})

    role: Role | MISSING = MISSING
    disabled: StrictBool | MISSING = MISSING


class AdminUserRead(UserRead):
    """What an administrator knows of an account."""

    model_config = ConfigDict(title="AdminUser")

    disabled: bool


class AdminUserPage(PageRead[AdminUserRead]):
    """A page of accounts."""

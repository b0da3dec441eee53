"""What the tests of the contract know of `account_mails`."""

from typing import Any

from sqlalchemy import select

from app.features.account_mails.models import Purpose
from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.callers import Caller
from tests.contract.declaration import Contract, Ids, Route, World
from tests.features.account_mails.factory import MailFactory

ME = ("user:{user_id}",)
EVERYBODY = Route(200, 200, 200, 200)  # the tests call from an address that may see the mailbox
NEW_PASSWORD = "another password"


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    async with resources.database.read() as session:
        user = await session.scalar(select(User).where(User.id == ids["user_id"]))
    assert user is not None
    await make_tokens(resources, user)
    return {}


async def populate(world: World) -> None:
    await make_tokens(world.resources, world.owner)


async def make_tokens(resources: ProcessResources, user: User) -> None:
    make = MailFactory(resources)
    for purpose in (Purpose.VERIFICATION, Purpose.PASSWORD_RESET):
        await make.mail(user, purpose, token=token_of(user.email, purpose))


def token_of(email: str, purpose: Purpose) -> str:
    """Return a token that only this user has."""
    return f"{purpose} {email}"


def verification(caller: Caller) -> dict[str, Any]:
    return {"json": {"token": token_of(caller.email, Purpose.VERIFICATION)}}


def reset(caller: Caller) -> dict[str, Any]:
    token = token_of(caller.email, Purpose.PASSWORD_RESET)
    return {"json": {"token": token, "password": NEW_PASSWORD}}


CONTRACT = Contract(
    {
        "POST /v1/auth/verification": Route(
            *(204, 401, 401, 401),
            drops=ME,
            content=verification,
            has_example=False,
            changes_cached_answers=False,
        ),
        "POST /v1/users/me/verification": Route(202, 202, 401, 401, drops=()),
        "POST /v1/auth/password-reset": Route(202, 202, 202, 202, drops=()),
        "POST /v1/auth/password-reset/confirm": Route(
            *(204, 401, 401, 401),
            drops=ME,
            content=reset,
            has_example=False,
            ends_account=True,
            changes_cached_answers=False,
        ),
        "GET /mailbox/verify-email": EVERYBODY,
        "GET /mailbox/reset-password": EVERYBODY,
    },
    make_rows=make_rows,
    populate=populate,
)

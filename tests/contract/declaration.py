"""What a feature declares in tests/features/<name>/contract.py.

The tests in this folder collect these declarations. They name no feature themselves, so that a
feature is added and removed together with its own tests.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from app.features.users.models import User
from app.infra.database.pagination import KeysetList
from app.infra.resources import ProcessResources
from tests.contract.callers import Caller

Ids = dict[str, Any]  # what the paths of the routes name


@dataclass(frozen=True)
class Route:
    """The row of one route. The first four fields are the status that each kind of caller gets.

    `shows` makes a route a cached one: the tags of an answer when there is one row of everything.
    `drops` belongs to every write: the tags that it invalidates, or `()` for none. In both, `{…}`
    is replaced by an id; `{id}` is the id of what a write has created.
    """

    owner: int
    other: int
    anonymous: int
    deleted: int
    _: KW_ONLY
    shows: tuple[str, ...] | None = None
    drops: tuple[str, ...] | None = None
    # A value of each query parameter but `limit` and `cursor`.
    query: Mapping[str, str] = field(default_factory=dict)
    # Arguments of the request, such as {"json": {…}}, if the body is not the documented example.
    content: Callable[[Caller], dict[str, Any]] | None = None
    # False if no example of its body can work, such as one with a token that works once.
    has_example: bool = True
    # The answer never ends, or leads to another site: only the tests of the feature call it.
    is_endless: bool = False
    # A success ends the account of its caller, or the token.
    ends_account: bool = False
    # False if what a write drops is shown to its owner or to admins alone.
    changes_cached_answers: bool = True
    # The Cache-Control of a route that is not cached and sets its own.
    cache_control: str | None = None
    # An invalid body is 400 in the form of OAuth 2 (RFC 6749, section 5.2), not a 422 problem.
    has_oauth_errors: bool = False

    @property
    def by_caller(self) -> dict[str, int]:
        return {
            "owner": self.owner,
            "other": self.other,
            "anonymous": self.anonymous,
            "deleted": self.deleted,
        }


@dataclass(frozen=True)
class ListPlan:
    """A list, the values of its parameters, and the index that has to serve it at any depth.

    `fill` of the contracts has made more than `deep_row` rows of the list. With `sorts`, the index
    only finds the rows, as that of a search does, and each page sorts all of them.
    """

    keyset: KeysetList[Any]
    filters: Mapping[str, object]
    index: str
    deep_row: int
    sorts: bool = False


@dataclass(frozen=True)
class Lookup:
    """A statement that has to use an index, and its values."""

    sql: str
    values: Sequence[object]
    index: str


@dataclass
class World:
    """Many rows of two users, and all the addresses that show them."""

    resources: ProcessResources
    owner: User
    other: User
    # What the routes name in their paths. The owner has each of these rows.
    ids: Ids
    urls: list[str] = field(default_factory=list)
    # Beginnings of the addresses of lists, which end in `?` or `&`. All their pages are read.
    lists: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contract:
    """Everything that the tests of the contract have to know of one feature."""

    routes: Mapping[str, Route]
    # Make one row for the user `user_id`, and return its id under the name that paths have for it.
    # The rows of the features below this one exist already.
    make_rows: Callable[[ProcessResources, Ids], Awaitable[Ids]] | None = None
    # Make the rows of the feature, and add their ids and addresses.
    populate: Callable[[World], Awaitable[None]] | None = None
    # Names of the OpenAPI document for what the feature sends.
    schemas: frozenset[str] = frozenset()
    # SQL that makes so many rows that PostgreSQL plans as it does in production.
    fill: str = ""
    lists: tuple[ListPlan, ...] = ()
    lookups: tuple[Lookup, ...] = ()

"""The routes of the infrastructure, for the tests of the contract."""

from tests.contract.declaration import Contract, Route

EVERYBODY = Route(200, 200, 200, 200)

CONTRACT = Contract(
    {
        "GET /livez": EVERYBODY,
        "GET /readyz": EVERYBODY,
        "GET /metrics": EVERYBODY,  # the tests call from an address that may see the metrics
        "GET /docs": EVERYBODY,
    },
    schemas=frozenset({"Problem"}),
)

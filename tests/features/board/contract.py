"""The routes of the board, for the tests of the contract."""

from tests.contract.declaration import Contract, Route

CONTRACT = Contract(
    {
        "GET /": Route(200, 200, 200, 200),
        # tests/features/board/test_board.py calls it.
        "GET /board/events": Route(200, 200, 200, 200, is_endless=True),
    }
)

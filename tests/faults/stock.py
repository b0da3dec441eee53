"""Uvicorn's worker as it comes, for controls: the same loop and parser, and its own way to leave."""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from app.infra.server.load_table import TABLE

STOCK_WORKER = f"{__name__}.StockWorker"


class StockWorker(UvicornWorker):  # type: ignore[misc]
    """It says nothing in its row."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "uvloop", "http": "httptools"}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.row = TABLE.take_row()

"""What `make remove` refuses, and what it edits. The drill removes features."""

import pytest

from dev.documents import without_rows, without_section, without_settings
from dev.drivers import drivers_without
from dev.features import Feature
from dev.planted import KEPT, PLANTED, Planted
from dev.remove import problem_with_removing
from dev.servers import ROOT
from dev.source_edits import forget

KNOWN = ["users", "auth", "orders", "invoices"]
ORDERS = Feature("orders")


@pytest.mark.parametrize("name", KEPT)
def test_features_that_all_tests_need_are_refused(name: str) -> None:
    problem = problem_with_removing(Feature(name), {}, KNOWN)
    assert problem == f"`{name}` cannot be removed: {KEPT[name]}."


def test_unknown_feature_is_refused_with_the_known_ones() -> None:
    problem = problem_with_removing(Feature("order"), {}, KNOWN)
    assert problem == "There is no feature `order`. These can be removed: invoices, orders"


@pytest.mark.parametrize(
    "line",
    [
        "import app.features.orders.service",
        "from app.features.orders import service",
        "from app.features import orders",
        "from app.features.orders.models import (\n    Order,\n)",
        "def late() -> None:\n    from tests.features.orders.factory import OrderFactory",
    ],
)
def test_feature_on_which_others_build_is_refused(line: str) -> None:
    files = {
        "app/features/invoices/service.py": line,
        "app/features/orders/service.py": "from app.features.orders import queries",
        "app/features/users/service.py": "from app.features.orders_archive import service",
        "app/api.py": "from app.features.orders import routes as orders",
    }
    problem = problem_with_removing(ORDERS, files, KNOWN)
    assert problem is not None
    assert "other features build on it: invoices." in problem
    assert "\n  app/features/invoices/service.py\n" in problem
    assert problem.endswith("\n  make remove name=invoices")
    del files["app/features/invoices/service.py"]
    assert problem_with_removing(ORDERS, files, KNOWN) is None


def test_feature_that_other_code_imports_is_refused() -> None:
    files = {"tests/infra/test_x.py": "from tests.features.orders.factory import OrderFactory"}
    problem = problem_with_removing(ORDERS, files, KNOWN)
    assert problem is not None
    assert "these files import it:\n  tests/infra/test_x.py\n" in problem


def test_file_that_is_removed_with_the_feature_may_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted = Planted(files=("tests/dev/test_x.py",))
    monkeypatch.setitem(PLANTED, "orders", planted)
    files = {"tests/dev/test_x.py": "from tests.features.orders.factory import OrderFactory"}
    assert problem_with_removing(ORDERS, files, KNOWN) is None


def test_drivers_go_with_the_routes_that_they_need_and_with_their_helpers() -> None:
    files = {
        "tests/faults/__init__.py": "",
        "tests/faults/author.py": 'await client.post("/v1/orders")',
        "tests/faults/test_orders.py": (
            "from tests.faults import author\nfrom tests.faults.lonely import x\n"
            "from tests.faults.shared import y"
        ),
        "tests/faults/test_more.py": "from tests.faults.test_orders import case",
        "tests/faults/test_archive.py": 'GET = "/v1/orders-archive"',
        "tests/faults/shared.py": "",
        "tests/faults/test_kept.py": "from tests.faults.shared import y",
        "tests/faults/lonely.py": "",
        "benchmarks/cached.py": 'URL = "/v1/orders"\nRAW = "benchmarks.raw:app"\nS = "each.lua"',
        "benchmarks/raw.py": "",
        "benchmarks/each.lua": "",
        "tests/infra/test_x.py": '"/v1/orders"',
    }
    assert drivers_without(ORDERS, files) == {
        "tests/faults/author.py",
        "tests/faults/test_orders.py",
        "tests/faults/test_more.py",
        "tests/faults/lonely.py",
        "benchmarks/cached.py",
        "benchmarks/raw.py",
        "benchmarks/each.lua",
    }
    assert drivers_without(Feature("invoices"), files) == set()


def test_no_benchmark_asks_for_a_column_of_comments_that_were_removed() -> None:
    """Only an element of a list can be removed, and no part of the text of a statement."""
    asking, names = [], PLANTED.get("comments", Planted()).names
    for path in (ROOT / "benchmarks").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "comment_count" in forget(text, names):
            asking.append(path.name)
    assert asking == []


def test_rows_of_tables_go_with_the_files_that_they_name() -> None:
    text = """
| promise | test |
|---|---|
| Orders are kept. | `tests/features/orders/test_routes.py` |
| Archives are kept. | `tests/features/orders-archive/test_routes.py` |

`tests/features/orders` is mentioned here.
"""
    gone = "| Orders are kept. | `tests/features/orders/test_routes.py` |\n"
    assert without_rows(text, ["tests/features/orders"]) == text.replace(gone, "")


def test_section_goes_with_its_subsections_and_the_rows_that_link_to_it() -> None:
    text = """# Observability

| to | read |
|---|---|
| watch | [board](#the-live-board) |
| measure | [metrics](#metrics) |

## The live board

A board.

### Viewers

Eight.

## Metrics

Numbers.
"""
    shorter = without_section(text, "The live board")
    assert (
        shorter
        == """# Observability

| to | read |
|---|---|
| measure | [metrics](#metrics) |

## Metrics

Numbers.
"""
    )
    assert without_section(shorter, "Metrics").endswith("|---|---|\n")
    assert without_section(shorter, "No such section") == shorter


def test_settings_go_with_the_comments_above_them() -> None:
    text = """# The port.
#METRICS_PORT=0
# The board.
# It may be off.
#BOARD_ENABLED=
BOARD_VIEWERS=8
# The dashboards.
#DASHBOARD_ENABLED=
"""
    assert without_settings(text, "board") == (
        "# The port.\n#METRICS_PORT=0\n# The dashboards.\n#DASHBOARD_ENABLED=\n"
    )

"""Names are forgotten with all that mentions them, and nothing else."""

import ast
from pathlib import Path
from textwrap import dedent

import pytest

from dev.source_edits import feature_layers, forget, remove_lines, with_feature_layers

PROJECT = Path(__file__).parents[2]

EXAMPLES = {
    "statements, with the comment directly above": (
        """
        # About the price.
        price = 1
        size = 2  # in bytes
        print(price, size)
        total = size + price
        """,
        """
        size = 2  # in bytes
        print(size)
        """,
    ),
    "the rest of a function, and the call of what is gone": (
        """
        def price(item: int) -> int:
            return item

        def show(item: int) -> int:
            seen = price(item)
            print("seen", seen)
            print(seen)
            if seen:
                print("yes")
            return item
        """,
        """
        def show(item: int) -> int:
            print("seen")
            return item
        """,
    ),
    "functions by their decorator, their only statement and their result": (
        """
        @route("/x", price)
        def one(): return 1

        def two():
            \"\"\"Set it.\"\"\"
            item.price = 1

        def three():
            x = 1
            return x * price

        def four(): return 4
        """,
        """
        def four(): return 4
        """,
    ),
    "members and base classes": (
        """
        class A(Base, price):
            price: int = 1
            size: int

        class B(price): pass

        class C:
            \"\"\"A class.\"\"\"
            PRICE = "price"
        """,
        """
        class A(Base):
            size: int
        """,
    ),
    "entries, elements, arguments and keywords": (
        """
        a = {"price": 1, "size": 2, **price, **size}
        b = ["size", "price"]
        c = ("size", "price")
        d = ("price", "size")
        e = call(size, price, [price], price=1, size=2)
        f = call([{"x": {"price": 1}}, {"y": 1}])
        g = call(
            1,  # one
            price,  # two
            3,  # three
        )
        h = "é", "𝄞", [(price), ("é")], 1
        """,
        """
        a = {"size": 2, **size}
        b = ["size"]
        c = ("size",)
        d = ("size",)
        e = call(size, size=2)
        f = call([{"y": 1}])
        g = call(
            1,  # one
            3,  # three
        )
        h = "é", "𝄞", [("é")], 1
        """,
    ),
    "tuples that are records": (
        """
        for a, b in (("size", 1), ("price", 2)): print(a, b)

        def one():
            yield "size", 1
            yield "price", 2

        def two():
            return "price", 2
        """,
        """
        for a, b in (("size", 1),): print(a, b)

        def one():
            yield "size", 1
        """,
    ),
    "the same elements of two tuples": (
        """
        assert (post["price"], post["size"]) == (1, 2)
        assert (price, size, name) == (1, 2, 3)
        price, x = 1, 2
        y, z = 1, price
        print(x, y, z)
        """,
        """
        assert post["size"] == 2
        assert (size, name) == (2, 3)
        x = 2
        y = 1
        print(x, y)
        """,
    ),
    "operands": (
        """
        a = size and price and name
        b = (price == 1) or size
        c = A | {"price": 1} | B
        d: int | price | None = None
        """,
        """
        a = size and name
        b = size
        c = A | B
        d: int | None = None
        """,
    ),
    "parts of types": (
        """
        a: Literal["price", "size"]
        b: Annotated[int, Field(price=1), Ge(1)]
        c: dict[str, price]
        """,
        """
        a: Literal["size"]
        b: Annotated[int, Ge(1)]
        """,
    ),
    "parameters, and what uses them": (
        """
        def one(size: int, price: int = 1, *, other: price) -> int:
            print(other, price)
            return size

        async def test_two(price):
            pass
        """,
        """
        def one(size: int) -> int:
            return size

        async def test_two():
            pass
        """,
    ),
    "imports": (
        """
        import app.price.models
        from app.price import queries
        from app import size, price
        from app.price_list import service
        queries.get(size)
        service.get(size)
        """,
        """
        from app import size
        from app.price_list import service
        service.get(size)
        """,
    ),
    "blocks": (
        """
        if price:
            print(1)
        elif size:
            print(2)
        if size:
            print(1)
        elif price:
            print(2)
        else:
            print(3)
        if size:
            # About the price.
            set(price)
        else:
            print(4)
        if size:
            print(5)
        else:
            set(price)
        with price, size as x:
            print(6)
        with size as x:
            set(price)
        try:
            print(7)
        except price:
            print(8)
        except size:
            print(9)
        finally:
            set(price)
        """,
        """
        if size:
            print(1)
        else:
            print(3)
        if size:
            pass
        else:
            print(4)
        if size:
            print(5)
        with size as x:
            print(6)
        try:
            print(7)
        except size:
            print(9)
        """,
    ),
    "tests that check nothing any more, or are parametrized with it": (
        """
        @pytest.mark.parametrize("price", [1])
        def test_one(price): assert 1

        @pytest.mark.parametrize("body", [{"size": 1}, {"price": 1}])
        def test_two(body):
            assert body

        def test_three(x):
            x.go()
            assert x.price

        @pytest.fixture
        def four():
            return price

        def test_five(four, x):
            assert four
            assert x
        """,
        """
        @pytest.mark.parametrize("body", [{"size": 1}])
        def test_two(body):
            assert body

        def test_five(x):
            assert x
        """,
    ),
    "sentences of docstrings": (
        """
        def one():
            \"\"\"Do one. The `price` is kept. What it costs counts. So the price is.\"\"\"
            return f"{size}"

        def two():
            \"\"\"`price` counts.\"\"\"
            return f"{price}" + size

        class A:
            \"\"\"`price` counts.\"\"\"

            size: int
        """,
        """
        def one():
            \"\"\"Do one. So the price is.\"\"\"
            return f"{size}"

        class A:

            size: int
        """,
    ),
}


def lines(text: str) -> list[str]:
    return [line for line in dedent(text).splitlines() if line.strip()]


@pytest.mark.parametrize(("source", "left"), EXAMPLES.values(), ids=EXAMPLES)
def test_names_are_forgotten(source: str, left: str) -> None:
    result = forget(dedent(source), ["price", "PRICE", "app.price", "What it costs"])
    assert lines(result) == lines(left)
    ast.parse(result)


def test_a_name_of_another_scope_is_kept() -> None:
    source = "def one():\n    x = price\n    print(x)\n\ndef two(x):\n    print(x)\n"
    assert lines(forget(source, ["price"])) == ["def two(x):", "    print(x)"]


@pytest.mark.parametrize("name", ["post", "session"])
def test_every_file_is_still_python_after_it_forgot_a_name(name: str) -> None:
    for folder in ("app", "tests/features", "tests/contract"):
        for file in (PROJECT / folder).rglob("*.py"):
            ast.parse(forget(file.read_text(encoding="utf-8"), [name]), str(file))


def test_source_without_the_name_is_unchanged() -> None:
    for file in (PROJECT / "app").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert forget(source, ["no_such_name"]) == source


def test_lines_are_removed_by_whole_words() -> None:
    assert remove_lines("a posts\nposts_x\nb\n", "posts") == "posts_x\nb\n"


def test_features_can_be_added_to_the_layers() -> None:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    layers = feature_layers(text)
    assert {"auth", "users"} <= set(layers)
    changed = with_feature_layers(text, ["invoices", *layers])
    assert feature_layers(changed) == ["invoices", *layers]
    assert with_feature_layers(changed, layers) == text

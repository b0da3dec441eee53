"""What the section on single mistakes counts."""

from benchmarks.sections import single


def test_altered_cursors_differ_in_one_character() -> None:
    texts = single.altered("abcd")
    assert len(set(texts)) == len(texts) == 4 * (len(single.ALPHABET) - 1)
    assert {sum(map(str.__ne__, text, "abcd")) for text in texts} == {1}


async def test_commit_after_the_response_is_acknowledged_although_it_fails(
    database_url: str,
) -> None:
    found = await single._measure_orders(database_url)
    assert found == {"after": single.ORDERS, "before": 0}

"""The headers Accept and Accept-Encoding, whoever wrote them."""

from time import process_time

import pytest

from app.infra.web.negotiation import LONGEST, weights

TIMES, ATTEMPTS = 10, 5


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a/b;q=0.5 , c ;\tq=0.25,*", {"a/b": 0.5, "c": 0.25, "*": 1}),
        (",, a,,", {"a": 1}),
        ('a;note="b,c";q=0.5, d', {"a": 0.5, "d": 1}),
        ('a;note=";q=0;", b', {"a": 1, "b": 1}),
        ('a;note="";q=0.5', {"a": 0.5}),
        ('a;note="b, c;q=0.5', {"c": 0.5}),
        ("a b, c", {"c": 1}),
        ('"a", b"c", d', {"d": 1}),
        ("a;q=2, b;q=-1, c;q=0.1234", {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_only_valid_elements_are_read(header: str, expected: dict[str, float]) -> None:
    assert weights(header) == expected


def least_seconds(header: str) -> float:
    """Return the processor time of reading a header several times, in the best attempt."""
    found = []
    for _ in range(ATTEMPTS):
        began = process_time()
        for _ in range(TIMES):
            weights(header)
        found.append(process_time() - began)
    return min(found)


@pytest.mark.parametrize(
    ("start", "piece", "end"),
    [
        ("", "a", '"'),
        ("", 'a"', ""),
        ("", '"', ""),
        ("", " ", ""),
        ("", " ", '"'),
        ("a", " ", "a"),
        ("", ';"', ""),
        ("a", ';"', ""),
        ("a", ';""', '"'),
        ("a;", " ", ""),
        ("a;q=1", " ", "a"),
        ("a", ";q=1", "a"),
        ("a", "; ", ""),
        ("", ",", ""),
        ("", "a,", '"'),
        ("", "a;", '"'),
        ("", '",', ""),
    ],
)
def test_time_to_read_a_header_is_proportional_to_its_length(
    start: str, piece: str, end: str
) -> None:
    """It would be 256 times if a search began again at every character.

    The limit is far from both, so that other work on the machine makes no difference.
    """
    count = (LONGEST - len(start + end)) // len(piece)
    short, long = (start + piece * times + end for times in (count // 16, count))
    assert least_seconds(long) <= 64 * least_seconds(short)


@pytest.mark.parametrize("piece", ["a", " ", ",", 'a"', ';"'])
def test_a_header_of_30_kilobytes_is_not_read(piece: str) -> None:
    assert weights("gzip," + piece * (30_000 // len(piece))) == {}

"""The section of `make bench` on uploads."""

from benchmarks.sections import uploads


def test_latencies_beside_uploads_are_those_of_all_rounds() -> None:
    rounds = [uploads.Round(10, [1, 2], [10, 20]), uploads.Round(30, [3, 4], [30, 40])]
    figures = uploads.of_all(rounds)
    assert (figures["rate"], figures["calm-p50"], figures["calm-p99"]) == (20, 3, 4)
    assert (figures["p50"], figures["p99"], figures["ratio"]) == (30, 40, 10)

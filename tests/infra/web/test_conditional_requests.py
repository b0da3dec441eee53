"""The headers of a GET, as RFC 9110 and RFC 9111 mean them."""

import pytest

from app.infra.web.conditional_requests import CacheRequestHeaders, accepts_gzip, read_cache_headers

ETAG = b'"1-abc"'


def ask(*headers: tuple[bytes, bytes]) -> CacheRequestHeaders:
    return read_cache_headers({"type": "http", "headers": list(headers)})


@pytest.mark.parametrize(
    "header",
    [
        b"gzip",
        b"GZip",
        b"x-gzip",
        b"*",
        b"gzip, deflate, br, zstd",
        b"br;q=1.0, gzip, *",
        b"gzip;q=1",
        b"gzip;q=1.000",
        b"deflate,gzip",
        b"deflate , gzip",
        b"identity;q=0, gzip",
        b"identity;q=0, *",
        b"*;q=0, gzip",
    ],
)
def test_gzip_is_accepted(header: bytes) -> None:
    assert accepts_gzip(header)
    assert ask((b"accept-encoding", header)).accepts_gzip


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"identity",
        b"br",
        b"deflate, br",
        b"gzip;q=0",
        b"gzip;q=0.0",
        b"gzip;q=0.000",
        b"gzip ; q=0",
        b"*;q=0",
        b"gzip;q=0, *",
        b"*, gzip;q=0",
        b"br, *;q=0",
        b"gzipped",
        b"not-gzip",
    ],
)
def test_gzip_is_not_accepted(header: bytes) -> None:
    assert not accepts_gzip(header)
    assert not ask((b"accept-encoding", header)).accepts_gzip


def test_without_a_word_nothing_is_compressed() -> None:
    assert not ask().accepts_gzip
    assert not ask((b"accept", b"gzip")).accepts_gzip


def test_lines_of_one_header_are_one_list() -> None:
    assert ask((b"accept-encoding", b"br"), (b"accept-encoding", b"gzip")).accepts_gzip
    assert not ask((b"accept-encoding", b"gzip;q=0"), (b"accept-encoding", b"*")).accepts_gzip
    assert ask((b"if-none-match", b'"a"'), (b"if-none-match", ETAG)).matches(ETAG)


@pytest.mark.parametrize(
    "header",
    [
        ETAG,
        b"W/" + ETAG,
        b'"a", ' + ETAG,
        b'"a",' + ETAG + b',"b"',
        b'W/"a" , W/' + ETAG,
        b'"a,b", ' + ETAG,
        b'"", ' + ETAG,
        b"*",
        b" * ",
    ],
)
def test_the_client_has_it(header: bytes) -> None:
    assert ask((b"if-none-match", header)).matches(ETAG)


@pytest.mark.parametrize(
    "header",
    [b"", b" ", b"1-abc", b'"1-abc', b'"1-ABC"', b'"1-abc-gzip"', b'"*"', b'"a1-abc"', b"W/"],
)
def test_the_client_has_something_else(header: bytes) -> None:
    assert not ask((b"if-none-match", header)).matches(ETAG)


def test_the_client_has_nothing() -> None:
    assert not ask().matches(ETAG)
    assert not ask((b"if-match", ETAG)).matches(ETAG)


@pytest.mark.parametrize("value", [b"no-cache", b"NO-CACHE", b"max-age=0", b"foo, no-cache"])
def test_no_cache_bypasses_the_memory(value: bytes) -> None:
    found = ask((b"cache-control", value))
    assert (found.skips_memory, found.bypasses_cache) == (True, False)


@pytest.mark.parametrize("value", [b"no-store", b"No-Store", b"no-store, max-age=60"])
def test_no_store_bypasses_the_cache(value: bytes) -> None:
    assert ask((b"cache-control", value)).bypasses_cache


@pytest.mark.parametrize("value", [b"", b"max-age=60", b"only-if-cached", b"no-transform"])
def test_other_directives_change_nothing(value: bytes) -> None:
    found = ask((b"cache-control", value))
    assert (found.skips_memory, found.bypasses_cache) == (False, False)


@pytest.mark.parametrize(
    "header",
    [
        b"br;q=1.0, gzip;q=0.8, *;q=0.1",
        b"gzip;q=0.001",
        b"gzip ; q=0.5",
        b"gzip;q=0.5, *;q=0",
        b"gzip;q=1.000",
    ],
)
def test_a_fractional_weight_is_accepted(header: bytes) -> None:
    assert accepts_gzip(header)


def test_what_nobody_means_is_not_read() -> None:
    assert not ask((b"accept-encoding", b"gzip," + b" " * 60_000)).accepts_gzip
    assert not ask((b"accept-encoding", b'notgzip;foo=gzip, "gzip"')).accepts_gzip


def test_the_name_of_a_weight_has_no_case() -> None:
    assert not accepts_gzip(b"gzip;Q=0")

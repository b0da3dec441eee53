"""Which clients count as one: a user, an IPv4 address, an IPv6 network."""

import pytest

from app.infra.web.client_address import _network_of, address_of


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:0DB8:0000:0001:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("203.0.113.9:51000", "203.0.113.9"),
        ("[2001:db8:0:1::1]:443", "2001:db8:0:1::/64"),
        ("[2001:db8:0:1::1]", "2001:db8:0:1::/64"),
        ("[::ffff:203.0.113.9]:443", "203.0.113.9"),
        ("", "unknown"),
        ("[", "unknown"),
        ("not an address", "unknown"),
        ("a" * 10_000, "unknown"),
    ],
    ids=lambda text: text[:20],
)
def test_an_address_is_named(client: str, name: str) -> None:
    assert address_of({"client": (client, 1)}) == name


def test_clients_of_a_unix_socket_count_as_one() -> None:
    assert address_of({"client": None}) == address_of({}) == "unknown"


def test_long_texts_are_not_kept_in_memory() -> None:
    before = _network_of.cache_info().currsize
    for number in range(100):
        address_of({"client": (f"{number}" + "a" * 10_000, 1)})
    assert _network_of.cache_info().currsize == before


def test_all_addresses_of_a_network_have_one_name() -> None:
    names = {address_of({"client": (f"2001:db8::{number:x}", 1)}) for number in range(10_000)}
    assert names == {"2001:db8::/64"}

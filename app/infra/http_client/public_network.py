"""Keeps connections to URLs of users out of our own network (server-side request forgery).

The address is checked when its socket is opened. So it does not matter how the URL writes it, what
its name resolves to at that moment, or which redirect led to it.
"""

import socket
from ipaddress import IPv6Address, ip_address, ip_network

from aiohttp import AddrInfoType

GLOBAL_IPV6 = ip_network("2000::/3")
# Python counts these as global: an address inside of Azure's networks, two blocks for protocols,
# IPv6 addresses that contain an IPv4 address, and a block for documentation.
REFUSED = tuple(
    map(
        ip_network,
        ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20"),
    )
)


class NotPublic(OSError):
    """A socket to this address may not be opened."""


def is_public(address: str) -> bool:
    """Return whether this is the address of one server on the internet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip not in GLOBAL_IPV6:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in block for block in REFUSED)


def open_public_socket(info: AddrInfoType) -> socket.socket:
    """Open a socket for aiohttp, which then connects it to the address of `info`."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise NotPublic("not a public address")
    return socket.socket(family, kind, protocol)

"""Chooses what to send by the weights of Accept and Accept-Encoding (RFC 9110, §12.5).

Parameters other than `q` are ignored. What is not valid in a header is ignored too. The time to
read a header is proportional to its length, whatever is in it.
"""

import re
from collections.abc import Mapping, Sequence

LONGEST = 4_096  # a longer header is not read
QUOTED = re.compile(r'"[^"]*"')
# An element whose quoted strings are empty. A string without an end makes it invalid.
ELEMENT = re.compile(r'\s*([\w!#$%&\'*+.^`|~/-]+)\s*((?:;(?:[^"]|"")*+)?)', re.ASCII)
WEIGHT = re.compile(r";\s*q=([01](?:\.\d{0,3})?)\s*(?:;|$)", re.ASCII | re.IGNORECASE)
IDENTITY = "identity"
LEAST = 0.0001  # of what a client accepts without naming it


def weights(header: str) -> dict[str, float]:
    """Return the weights of the elements of a header, by their names in lower case."""
    if len(header) > LONGEST:
        return {}
    found = {}
    for element in QUOTED.sub('""', header).split(","):
        if match := ELEMENT.fullmatch(element):
            name, parameters = match.groups()
            weight = WEIGHT.search(parameters)
            found[name.lower()] = float(weight[1]) if weight else 1.0
    return found


def preferred_type(accept: str | None, offers: Sequence[str]) -> str | None:
    """Return the media type that a client prefers, the first one of several, or None."""
    if not accept:
        return offers[0]
    accepted = weights(accept)

    def weight(offer: str) -> float:
        ranges = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        return next((accepted[one] for one in ranges if one in accepted), 0)

    return _best({offer: weight(offer) for offer in offers})


def preferred_encoding(accept_encoding: str | None, offers: Sequence[str]) -> str | None:
    """Return the content coding that a client prefers, `identity` for none, or None if none fits.

    A client that sends no Accept-Encoding gets no coding.
    """
    if accept_encoding is None:
        return IDENTITY
    accepted = weights(accept_encoding)
    found = {offer: encoding_weight(accepted, offer) for offer in offers}
    found[IDENTITY] = accepted.get(IDENTITY, accepted.get("*", LEAST))
    return _best(found)


def encoding_weight(accepted: Mapping[str, float], coding: str) -> float:
    """Return the weight of a content coding. `x-gzip` is an old name of `gzip`."""
    return next((accepted[name] for name in (coding, f"x-{coding}", "*") if name in accepted), 0)


def _best(found: dict[str, float]) -> str | None:
    best = max(found, key=lambda offer: found[offer])  # the first one of several
    return best if found[best] > 0 else None

"""Find out who asks: the peer of the connection, or the client that a trusted proxy names. Pure.

A host's address is what a registration is about, so a header counts only if the peer is a proxy of ours. Each proxy
appends the address that it sees. Read from the right, the first address that is none of our proxies is therefore the
client's; whatever is left of it was said by the client, and does not count.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.addresses import Address, Network

FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"

_MOST_HOPS: Final = 32


class MalformedHeader(Exception):
    """A proxy of ours has forwarded a header that is not of the agreed form; it must not be used."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks."""

    address: str
    """Canonical; that of the peer if it is not an IP address."""
    scheme: str
    """``http`` or ``https``."""
    is_proxy: bool = False
    """The address is that of a proxy, which has not named its client."""


def client_of(peer: str, scheme: str, headers: Iterable[tuple[bytes, bytes]], trusted: Sequence[Network]) -> Client:
    """Return the client of a request.

    Args:
        peer, scheme: of the connection.
        headers: names in lower case.
        trusted: networks of our proxies.

    Raises:
        MalformedHeader: the peer is a proxy, and a forwarded header is malformed.
    """
    address = _parse(peer)
    if address is None:
        return Client(peer, scheme)
    if not _is_trusted(address, trusted):
        return Client(str(address), scheme)
    found = list(headers)
    scheme = _scheme([value for name, value in found if name == FORWARDED_PROTO], scheme)
    hops = _hops([value for name, value in found if name == FORWARDED_FOR])
    if not hops:
        return Client(str(address), scheme, is_proxy=True)
    client = next((hop for hop in reversed(hops) if not _is_trusted(hop, trusted)), hops[0])
    return Client(str(client), scheme)


def _hops(values: Sequence[bytes]) -> list[Address]:
    """Return the addresses in all headers of a request, in their order."""
    if not values:
        return []
    parts = b",".join(values).split(b",")
    if len(parts) > _MOST_HOPS:
        raise MalformedHeader("X-Forwarded-For: too many addresses")
    hops = [_parse(part.decode("ascii", "replace").strip(" \t")) for part in parts]
    known = [hop for hop in hops if hop is not None]
    if len(known) != len(hops):
        raise MalformedHeader("X-Forwarded-For: must be a list of addresses")
    return known


def _scheme(values: Sequence[bytes], otherwise: str) -> str:
    if not values:
        return otherwise
    said = values[0].strip(b" \t").lower()
    if len(values) > 1 or said not in (b"http", b"https"):
        raise MalformedHeader("X-Forwarded-Proto: must be http or https")
    return said.decode()


def _parse(text: str) -> Address | None:
    """Return the address in ``text``; one of IPv4 that is mapped into IPv6 is one of IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        address = ipaddress.IPv6Address(int(address))
    return any(address in network for network in trusted)

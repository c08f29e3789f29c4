"""Parse the local addresses from which the API is contacted. Pure."""

import ipaddress
from collections.abc import Mapping
from typing import Final

from schema.names import IpVersion

_BY_VERSION: Final[Mapping[int, IpVersion]] = {4: "v4", 6: "v6"}


def parse_local_addresses(text: str) -> dict[IpVersion, str]:
    """Return the address of each protocol in ``text``, a list separated by commas; an empty text has none.

    Raises:
        ValueError: a part is not an address of one host, or a protocol has two.
    """
    found: dict[IpVersion, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        ipv, ip = _local(part)
        if ipv in found:
            raise ValueError(f"{found[ipv]} and {ip}: at most one address of IP{ipv}")
        found[ipv] = ip
    return found


def _local(text: str) -> tuple[IpVersion, str]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    mapped = isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id)
    if address.is_unspecified or address.is_multicast or mapped:
        raise ValueError(f"{text} is not the address of one host")
    return _BY_VERSION[address.version], str(address)

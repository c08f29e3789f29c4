"""Decide which addresses may be measured on request, and at which port. Pure."""

import ipaddress
import json
from typing import Final, NamedTuple

from schema.addresses import why_not_public
from schema.names import Environment, IpVersion

NTP_PORT: Final = 123
_LONGEST: Final = 64
"""Characters of an address that an error quotes."""


class WrongTarget(ValueError):
    """The address may not be measured; the message says why."""


class Target(NamedTuple):
    """An address that may be measured."""

    ip: str
    """Canonical."""
    ipv: IpVersion


def parse_target(env: Environment, text: str) -> Target:
    """Return the target that ``text`` names. The agents apply the same rules once more.

    Raises:
        WrongTarget: it is no address, not that of one host, or not public, which it must be outside ``devel``.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise WrongTarget(f"{text[:_LONGEST]!r} is not an IP address.") from None
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise WrongTarget(f"{str(address)[:_LONGEST]} is an IPv4 address within IPv6, or bound to an interface.")
    if address.is_multicast or address.is_unspecified:
        raise WrongTarget(f"{address} is not the address of one host.")
    if env != "devel" and (kind := why_not_public(address)):
        raise WrongTarget(f"{address} is {kind}; only public addresses are measured.")
    return Target(str(address), "v4" if address.version == 4 else "v6")


def port_of(env: Environment, flags: str) -> int:
    """Return the UDP port of a server with these flags. Only ``devel`` has others than 123; invalid flags count as
    none."""
    if env != "devel":
        return NTP_PORT
    try:
        found = json.loads(flags or "{}")
    except (ValueError, RecursionError):
        return NTP_PORT
    port = found.get("port") if isinstance(found, dict) else None
    return port if isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65535 else NTP_PORT

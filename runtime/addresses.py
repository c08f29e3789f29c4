"""Parse lists of addresses and networks in settings."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Return the addresses in a list that is separated by commas, at least one.

    Raises:
        ValueError: it is not such a list; the message describes the correct form.
    """
    try:
        found = tuple(ipaddress.ip_address(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("must be addresses separated by commas, such as 127.0.0.1,::1") from None
    if len(set(found)) != len(found):
        raise ValueError("has the same address twice")
    return found


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the addresses and networks in a list that is separated by commas; an empty text is an empty list.

    Raises:
        ValueError: it is not such a list; the message describes the correct form.
    """
    if not text.strip():
        return ()
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError(
            "must be addresses or networks separated by commas, such as 192.0.2.7,2001:db8::/64 "
            "(a network's address has no bits set beyond its length)"
        ) from None


def network_of(ip: str) -> str:
    """Return the network that limits count for: an IPv4 address, or the /64 of an IPv6 address."""
    address = ipaddress.ip_address(ip)
    return ip if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))

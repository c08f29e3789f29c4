"""Decide which addresses are public, that is, belong to one host that the whole internet can reach.

The list is our own, after IANA's registries of special-purpose addresses for IPv4 and IPv6 and the RFCs that they name.
The list in Python's ``ipaddress`` changes from version to version, and both sides must accept the same addresses. Pure.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

_V4: Final = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/32", "the unspecified address"),  # RFC 1122, section 3.2.1.3
        ("0.0.0.0/8", "an address of this network"),  # RFC 791, section 3.2
        ("10.0.0.0/8", "a private address"),  # RFC 1918
        ("100.64.0.0/10", "a carrier-grade NAT address"),  # RFC 6598
        ("127.0.0.0/8", "a loopback address"),  # RFC 1122, section 3.2.1.3
        ("169.254.0.0/16", "a link-local address"),  # RFC 3927
        ("172.16.0.0/12", "a private address"),  # RFC 1918
        ("192.0.0.0/24", "a protocol assignment"),  # RFC 6890, section 2.1
        ("192.0.2.0/24", "a documentation address"),  # RFC 5737
        ("192.88.99.0/24", "a 6to4 relay address"),  # RFC 7526
        ("192.168.0.0/16", "a private address"),  # RFC 1918
        ("198.18.0.0/15", "a benchmarking address"),  # RFC 2544
        ("198.51.100.0/24", "a documentation address"),  # RFC 5737
        ("203.0.113.0/24", "a documentation address"),  # RFC 5737
        ("224.0.0.0/4", "a multicast address"),  # RFC 5771
        ("255.255.255.255/32", "the broadcast address"),  # RFC 919, section 7
        ("240.0.0.0/4", "a reserved address"),  # RFC 1112, section 4
    )
)

_V6: Final = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "the unspecified address"),  # RFC 4291, section 2.5.2
        ("::1/128", "a loopback address"),  # RFC 4291, section 2.5.3
        ("::/96", "an IPv4-compatible address"),  # RFC 4291, section 2.5.5.1
        ("64:ff9b:1::/48", "a local NAT64 address"),  # RFC 8215
        ("100::/64", "a discarded address"),  # RFC 6666
        ("2001::/23", "a protocol assignment"),  # RFC 2928
        ("2001:db8::/32", "a documentation address"),  # RFC 3849
        ("3fff::/20", "a documentation address"),  # RFC 9637
        ("fc00::/7", "a private address"),  # RFC 4193
        ("fe80::/10", "a link-local address"),  # RFC 4291, section 2.5.6
        ("fec0::/10", "a site-local address"),  # RFC 3879
        ("ff00::/8", "a multicast address"),  # RFC 4291, section 2.7
    )
)

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All addresses that are assigned to hosts (RFC 4291, section 2.4, and IANA's registry of the address space)."""

_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1


def why_not_public(address: Address) -> str | None:
    """Return the kind of an address that is not public, such as ``a private address``; ``None`` if it is public.

    An IPv6 address that embeds IPv4 addresses (mapped, NAT64, 6to4, Teredo) is of their kind, since packets end there.
    """
    if isinstance(address, IPv6Address) and (inner := _ipv4_within(address)):
        return next((f"{kind} ({ip}) in IPv6" for ip in inner if (kind := _kind(ip))), None)
    return _kind(address)


_SITE_BITS: Final = {4: 24, 6: 48}
"""Length of the prefix that addresses of one site have in common, as the rules for assignments assume."""


def of_one_site(first: str, second: str) -> bool:
    """Return whether two addresses are in the same /24 or /48.

    Raises:
        ValueError: one of them is not an address.
    """
    one, other = ip_address(first), ip_address(second)
    if one.version != other.version:
        return False
    rest = one.max_prefixlen - _SITE_BITS[one.version]
    return int(one) >> rest == int(other) >> rest


def _kind(address: Address) -> str | None:
    for network, kind in _V4 if isinstance(address, IPv4Address) else _V6:
        if address in network:
            return kind
    return None if isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST else "not the address of a host"


def _ipv4_within(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses to which packets for an address are forwarded."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo  # the relaying server, and the host's translator
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    return ()

"""Understand how people and tools write a server: as its id, its address in any spelling, or its name. Pure."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

_ID: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_MOST_ID: Final = 2**32 - 1
_HOSTNAME: Final = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a text may mean; all are None if it means nothing."""

    id: int | None = None
    ip: str | None = None
    """The address in its canonical spelling."""
    hostname: str | None = None
    """In lower case, without a dot at its end."""


def parse_server(text: str) -> Asked:
    """Return what ``text`` means. An IPv4 address that is mapped into IPv6 is one of IPv4; zones mean nothing."""
    text = text.strip()
    if _ID.fullmatch(text):
        number = int(text)
        return Asked(id=number) if number <= _MOST_ID else Asked()
    if (ip := canonical(text)) is not None:
        return Asked(ip=ip)
    if _HOSTNAME.fullmatch(text) and not re.fullmatch(r"[0-9.]+", text):
        return Asked(hostname=text.lower().rstrip("."))
    return Asked()


def canonical(text: str) -> str | None:
    """Return the canonical spelling of an address; None if it is no address of a host on the internet."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return str(address.ipv4_mapped or address)
    return str(address)

"""Judge requests of browsers: where a form comes from, and where to go after a login. Pure.

All pages say ``Referrer-Policy: no-referrer``, since some addresses are secrets. Browsers then send ``Origin: null``
with the pages' own forms, too, so ``Sec-Fetch-Site`` decides, which all browsers send to HTTPS and to loopback; only
without it, ``Origin`` does.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from runtime.addresses import network_of

HOME: Final = "/manage"
LOGIN_START: Final = "/login/start"
"""Leads to the provider of OpenID Connect."""

_OUR_PATH: Final = re.compile(r"/manage(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,252}){0,4}", re.ASCII)


def is_own_form(headers: Mapping[str, str], origin: str) -> bool:
    """Return whether a form was sent by a page of ours.

    Args:
        headers: of the request, found regardless of case.
        origin: ours, such as ``https://api.pool.example``.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return headers.get("origin", "").lower() == origin.lower()


def path_after_login(text: str) -> str:
    """Return the path to show after a login: ``text`` if it is one of our pages, else that of the overview."""
    return text if _OUR_PATH.fullmatch(text) else HOME


def network_of_peer(host: str | None) -> str:
    """Return the network that failed logins count for: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return network_of(str(address))

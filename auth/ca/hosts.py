"""Check the names and addresses of servers for certificates."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME: Final = 253
MOST_HOSTS: Final = 50


class InvalidHost(ValueError):
    """A host of a certificate is invalid; the message names it and the valid forms."""


def general_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return the hosts in the form of a SAN, without duplicates.

    Raises:
        InvalidHost: one is neither a DNS name in lower case nor an IP address, there is none, or there are too many.
    """
    if not 1 <= len(hosts) <= MOST_HOSTS:
        raise InvalidHost(f"hosts: must be 1 to {MOST_HOSTS} names or addresses")
    return list(dict.fromkeys(map(_general_name, hosts)))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # A last label of digits only would be read as an address by some clients.
    if len(host) > _MAX_NAME or not _NAME.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise InvalidHost(
            f"host {host[:_MAX_NAME]!r}: must be a DNS name in lower case without wildcards, or an IP address"
        )
    return x509.DNSName(host)


def common_name(names: Sequence[x509.GeneralName]) -> str:
    """Return a subject for people, who see it in lists; programs read the SAN. It has at most 64 characters."""
    text = str(names[0].value)
    return text if len(text) <= 64 else text.partition(".")[0]

"""Recognize loopback hosts, the only ones to which secrets may be sent unencrypted."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether ``host``, a name or an address without brackets, is this machine's loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

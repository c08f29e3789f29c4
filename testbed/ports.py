"""Find addresses and ports for servers that are started, killed and restarted on this machine."""

import random
import socket
from pathlib import Path
from typing import Final

ADDRESS: Final = "127.0.0.1"
ADDRESS_V6: Final = "::1"
NO_IPV6: Final = f"this machine has no {ADDRESS_V6}, the loopback address of IPv6"

_EPHEMERAL_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The first and last port that the kernel uses for outgoing connections (ip(7), also for IPv6)."""


def has_ipv6() -> bool:
    """Return whether this machine has the loopback address of IPv6."""
    return _is_free(ADDRESS_V6, 0)


def loopback_addresses() -> tuple[str, ...]:
    """Return the loopback addresses of this machine."""
    return (ADDRESS, ADDRESS_V6) if has_ipv6() else (ADDRESS,)


def free_port() -> int:
    """Find a TCP port on which nothing listens, at any loopback address.

    The port is outside the range of outgoing connections: one of them could take it during a restart of the server.
    """
    first_ephemeral = int(_EPHEMERAL_PORTS.read_text().split()[0]) if _EPHEMERAL_PORTS.exists() else 32768
    addresses = loopback_addresses()
    while True:
        port = random.randrange(10_000, max(first_ephemeral, 20_000))
        if all(_is_free(address, port) for address in addresses):
            return port


def _is_free(address: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, port))
    except OSError:
        return False
    return True

"""Ports for servers that are started, killed and started again on this machine."""

import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

ADDRESS: Final = "127.0.0.1"

_EPHEMERAL_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The first and the last port that the kernel gives to outgoing connections (ip(7))."""


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on right now.

    It is none of those that the kernel gives to outgoing connections: one of them could take it while the server is
    being restarted.
    """
    first_ephemeral = int(_EPHEMERAL_PORTS.read_text().split()[0]) if _EPHEMERAL_PORTS.exists() else 32768
    while True:
        port = random.randrange(10_000, max(first_ephemeral, 20_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind((ADDRESS, port))
            return port

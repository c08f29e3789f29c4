"""Show a line in ``systemctl status``, with systemd's protocol (sd_notify(3)) and the standard library."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from runtime.printable import printable

_LONGEST: Final = 500


def show_status(text: str, environ: Mapping[str, str] = os.environ) -> None:
    """Replace the unit's status line; do nothing if systemd has not started us, or does not listen now."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = path.replace("@", "\0", 1) if path.startswith("@") else path
    line = f"STATUS={printable(text)[:_LONGEST]}".encode("utf-8", "replace")
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # the event loop must not wait for systemd
        sock.sendto(line, address)

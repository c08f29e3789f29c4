"""Refuse what the channels of accounts must not do: connect to addresses that are not public, or run programs.

An account's URL may name any host, which may resolve to any address, at each look-up to another one, and may redirect
to another host. So the address is checked where the process connects, whatever led to it: by an audit hook (PEP 578),
which no code in the process can remove. Only the sender's process installs it.
"""

import ipaddress
import sys
from typing import Any, Final

from schema.addresses import why_not_public

_FORBIDDEN: Final = frozenset(
    {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"}
)
_CONNECTING: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


class Refused(PermissionError):
    """The guard has refused a connection; the message gives the reason."""


class Guard:
    """The rules for the current message of this process."""

    def __init__(self) -> None:
        self.closed = False
        """Whether only public addresses are permitted now."""
        self.refusal: str | None = None
        """The last refusal since it was closed."""

    def install(self) -> None:
        """Check all that this process does from now on; this cannot be undone."""
        sys.addaudithook(self.check)

    def open(self) -> None:
        """Permit everything, for channels of operators."""
        self.closed, self.refusal = False, None

    def close(self) -> None:
        """Permit only public addresses, for channels of accounts."""
        self.closed, self.refusal = True, None

    def check(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise an error for an event that is not permitted.

        Raises:
            Refused: it is not.
        """
        if not self.closed:
            return
        if event in _FORBIDDEN:
            self._refuse(f"must not run programs ({event})")
        if event in _CONNECTING and (why := _why_not(args[1])) is not None:
            self._refuse(f"must not connect to {why}")

    def _refuse(self, why: str) -> None:
        self.refusal = why
        raise Refused(why)


def _why_not(address: object) -> str | None:
    """Return the kind of an address to which channels of accounts must not connect; None if they may."""
    if address is None:  # a socket that is connected already
        return None
    if not isinstance(address, tuple) or not isinstance(address[0], str):
        return "a socket of this machine"
    try:
        found = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        # A name, which the socket would resolve itself: nobody could tell to what.
        return "a name that was not resolved"
    return why_not_public(found)

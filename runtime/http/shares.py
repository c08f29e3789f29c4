"""Limit what one participant may occupy at once, so that it cannot keep the others out.

A participant is an IPv4 address, or a /64 of IPv6, as for registrations. Only what is open now is counted, so the
memory is bounded by the limits themselves.
"""

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from runtime.addresses import Network, network_of, parse_networks

LOOPBACK: Final = parse_networks("127.0.0.0/8,::1")
"""Nobody else can connect from there: a proxy, a test or a program of the operators on this host."""


class Shares:
    """Count what each participant occupies. Used in the event loop only.

    Args:
        most: maximum for one participant.
        exempt: networks without a limit, such as those of proxies of ours.
    """

    def __init__(self, most: int, exempt: Sequence[Network] = LOOPBACK) -> None:
        self._most = most
        self._exempt = exempt
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of participants that occupy something."""
        return len(self._taken)

    def take(self, address: str) -> Callable[[], None] | None:
        """Occupy one more; return the function that gives it back, or ``None`` if that would be too many.

        Further calls of that function change nothing.
        """
        who = participant(address, self._exempt)
        if who is None:
            return lambda: None
        if self._taken[who] >= self._most:
            return None
        self._taken[who] += 1
        held = [who]

        def give_back() -> None:
            if held:
                self._give_back(held.pop())

        return give_back

    def _give_back(self, who: str) -> None:
        self._taken[who] -= 1
        if not self._taken[who]:
            del self._taken[who]


def participant(address: str, exempt: Sequence[Network] = ()) -> str | None:
    """Return who is at an address, as a text to count for; ``None`` if it is exempt or no IP address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    found = getattr(found, "ipv4_mapped", None) or found
    return None if any(found in network for network in exempt) else network_of(str(found))


class FairListener(socket.socket):
    """A listening socket that closes connections beyond the share of their participant as soon as they arrive.

    The server library learns of a connection only after its TLS handshake, until when a client could hold any number
    of them open.

    Args:
        bound: a socket that is bound, which this one takes over.
        on_refused: called with the address of a connection that was closed.
    """

    def __init__(self, bound: socket.socket, shares: Shares, on_refused: Callable[[str], object]) -> None:
        super().__init__(bound.family, bound.type, bound.proto, bound.detach())
        self._shares = shares
        self._on_refused = on_refused

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            ConnectionAbortedError: it was one too many. The event loop goes on with the next one.
        """
        made, peer = super().accept()
        give_back = self._shares.take(str(peer[0]))
        if give_back is None:
            made.close()
            self._on_refused(str(peer[0]))
            raise ConnectionAbortedError
        return _Accepted(made, give_back), peer


class _Accepted(socket.socket):
    """A connection that gives its share back when it is closed."""

    def __init__(self, made: socket.socket, give_back: Callable[[], None]) -> None:
        super().__init__(made.family, made.type, made.proto, made.detach())
        self._give_back = give_back

    def close(self) -> None:
        """Close it, and give its share back."""
        super().close()
        self._give_back()

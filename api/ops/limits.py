"""Limit what operators' programs may do at once and within a minute, in memory. Used in the event loop only.

Operators are trusted, but their programs have defects and their keys are stolen: neither may flood a server with
packets, nor take the places of the hosts that ask this API.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final

CHECKS_PER_MINUTE: Final = 10
"""Maximum checks, with those of routes, that one operator may begin within a minute at each process of the API."""

WAITING_AT_ONCE: Final = 8
"""Maximum requests that wait for agents at once: half of those that may run (``runtime.http.edge.AT_ONCE``), so hosts
always have the other half."""

CHECKS_AT_ONCE: Final = 3
"""Maximum checks at once, of all operators; they are some of those that wait."""

TRACEROUTES_AT_ONCE: Final = 2
"""The same for routes, which take longer; they have their own places, so they delay no other check."""

_MINUTE: Final = 60.0


class Full(Exception):
    """There are as many at once as there may be."""


class Places:
    """A number of places, each occupied within a ``with`` block."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0
        """How many are occupied."""

    @contextmanager
    def one(self) -> Iterator[None]:
        """Occupy a place.

        Raises:
            Full: there is none.
        """
        if self.taken >= self._most:
            raise Full
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class PerMinute:
    """Count what each one has begun within the last minute.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._begun: dict[Hashable, deque[float]] = {}

    def begin(self, who: Hashable) -> float:
        """Count one more, and return 0; or, if that would be too many, the seconds until it is allowed."""
        now = self._clock()
        self._forget(now)
        begun = self._begun.setdefault(who, deque())
        if len(begun) >= self._most:
            return begun[0] + _MINUTE - now
        begun.append(now)
        return 0.0

    def _forget(self, now: float) -> None:
        for who, begun in list(self._begun.items()):
            while begun and now - begun[0] >= _MINUTE:
                begun.popleft()
            if not begun:
                del self._begun[who]

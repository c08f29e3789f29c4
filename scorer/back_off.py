"""How long the scorer rests while more servers wait than it can follow: a pure rule.

A score that is computed once for ten results costs a tenth of ten scores, and is the same in the end. So when results
come faster than scores can follow, as when spools are drained after an outage, the scorer leaves the machine to ingest:
results first, and their scores a few seconds later.
"""

from typing import Final

from runtime.db.queue import Backlog

MOST_WAITING: Final = 0.75
"""Share of the servers that counts as waiting, at most: the scorer always has a quarter of its time."""

LONGEST: Final = 2.0
"""Seconds of a rest, at most."""


def rest_after(seconds: float, behind: Backlog) -> float:
    """Seconds to rest after a round of ``seconds`` that left ``behind``.

    The scorer works for the share of time that is the share of servers which do not wait. That rule does not hold
    itself up: results that come at ``r`` servers a second, evenly, make ``r * (1 - waiting)`` of them due anew, while
    a scorer that could do ``c`` does ``c * (1 - waiting)``. So whenever it could follow, that is with ``r < c``, the
    backlog shrinks at any size, and the rests with it.
    """
    if not behind.servers:
        return 0.0
    waiting = min(behind.due / behind.servers, MOST_WAITING)
    return min(LONGEST, seconds * waiting / (1.0 - waiting))

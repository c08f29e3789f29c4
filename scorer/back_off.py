"""Compute the scorer's back-off under load. Pure.

A score that is computed once for ten results costs a tenth of ten scores, and the outcome is the same. So when results
arrive faster than the scorer can score, as when spools are drained after an outage, the scorer yields the machine to
ingest: results are stored first and scored a few seconds later.
"""

from typing import Final

from runtime.db.queue import Backlog

MOST_WAITING: Final = 0.75
"""Maximum share of waiting servers that counts, so that the scorer always works for a quarter of the time."""

LONGEST: Final = 2.0
"""Maximum back-off in seconds."""


def rest_after(seconds: float, behind: Backlog) -> float:
    """Return the back-off in seconds after a round of ``seconds`` that left the backlog ``behind``.

    The scorer's share of time equals the share of servers that do not wait. The rule converges: if results of ``r``
    servers per second arrive evenly, ``r * (1 - waiting)`` of these become due, while a scorer with a capacity of
    ``c`` servers per second scores ``c * (1 - waiting)``. So with ``r < c`` a backlog of any size shrinks, and the
    back-off with it.
    """
    if not behind.servers:
        return 0.0
    waiting = min(behind.due / behind.servers, MOST_WAITING)
    return min(LONGEST, seconds * waiting / (1.0 - waiting))

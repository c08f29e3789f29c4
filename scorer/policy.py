"""Decide when a score is logged, and when its fall triggers a review. Pure.

A score is computed after every result, but people and graphs need only the changes. ``server_scores`` and ``servers``
are always updated.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

SAME_FOR: Final = timedelta(minutes=15)
"""Time after which an unchanged score is logged again, to show that it is still computed."""

SIMILAR_FOR: Final = timedelta(minutes=5)
"""Time after which a similar score is logged again."""

SIMILAR: Final = 0.05
"""Maximum relative difference of similar scores, as a share of the older one."""

FALL: Final = 1.0
"""Minimum fall of a score that triggers a review of the server."""

HANDED_OUT_ABOVE: Final = 10.0
"""Only servers with a higher score are handed out to clients."""


@dataclass(frozen=True, slots=True)
class Logged:
    """The newest log row of a scorer for a server."""

    ts: datetime
    score: float


def is_news(score: float, ts: datetime, last: Logged | None) -> bool:
    """Return whether ``score`` at ``ts`` has to be logged after ``last``."""
    if last is None:
        return True
    age = ts - last.ts
    if age < timedelta(0):
        return False
    if score == last.score:
        return age >= SAME_FOR
    return age >= SIMILAR_FOR or abs(score - last.score) > SIMILAR * abs(last.score)


def is_alarming(score: float, before: float) -> bool:
    """Return whether a score fell so far that the server has to be reviewed at once."""
    return before - score >= FALL or score <= HANDED_OUT_ABOVE < before

"""When a score is worth a row in the log, and when its fall is worth a review: pure rules.

Scores are computed at every result, but people and graphs need only what changed. The score itself always follows in
``server_scores`` and ``servers``.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

SAME_FOR: Final = timedelta(minutes=15)
"""An unchanged score is logged again after this time, to show that it was watched."""

SIMILAR_FOR: Final = timedelta(minutes=5)
"""A similar score is logged again after this time."""

SIMILAR: Final = 0.05
"""Two scores are similar when they differ by at most this part of the older one."""

FALL: Final = 1.0
"""A score that falls by this much or more asks for another look at who measures the server."""

GOOD: Final = 10.0
"""Servers below it are not handed out."""


@dataclass(frozen=True, slots=True)
class Logged:
    """The newest row that a scorer wrote about a server."""

    ts: datetime
    score: float


def is_news(score: float, ts: datetime, last: Logged | None) -> bool:
    """Whether ``score`` of ``ts`` is to be logged after ``last``."""
    if last is None:
        return True
    age = ts - last.ts
    if age < timedelta(0):
        return False
    if score == last.score:
        return age >= SAME_FOR
    return age >= SIMILAR_FOR or abs(score - last.score) > SIMILAR * abs(last.score)


def is_alarming(score: float, before: float) -> bool:
    """Whether a score fell so far that the server is to be reviewed at once."""
    return before - score >= FALL or score < GOOD <= before

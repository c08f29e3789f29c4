"""recentmedian: the score that the pool uses, the median of what the server's monitors say now.

The median, because a single monitor, broken, badly connected or hostile, must not take a good server out of the pool
nor keep a bad one in. Of an even number the lower middle is taken: in doubt the worse.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from runtime.db.system_settings import Intervals
from schema.messages import PairStatus
from scorer.model import PairScore, Score, Scorer, Tier

RECENT: Final = 2.2
"""Intervals within which a monitor counts: one result may be missing, and the next a little late."""

FEWEST: Final = 3
"""Results that have a median worth the name."""


def tiers(intervals: Intervals) -> tuple[Tier, ...]:
    """The active monitors; without any, those in testing too; without these, testing and candidates."""

    def tier(interval: float, *statuses: PairStatus) -> Tier:
        return Tier(frozenset(statuses), timedelta(seconds=RECENT * interval))

    return (
        tier(intervals.interval_active, "active"),
        tier(intervals.interval_testing, "active", "testing"),
        tier(intervals.interval_candidate, "testing", "candidate"),
    )


def median(results: Sequence[PairScore]) -> Score:
    """The result in the middle by score, then rtt, then id; of fewer than three, the one measured first.

    Results without an rtt (0, or NULL) sort first, as in SQL. Two results say nothing about which of them is wrong, so
    the one that stood longest is kept: a monitor that just came cannot move a score alone.
    """
    if len(results) < FEWEST:
        chosen = min(results, key=lambda r: (r.ts, r.log_score_id))
    else:
        ordered = sorted(results, key=lambda r: (r.score, r.rtt or 0, r.log_score_id))
        chosen = ordered[(len(ordered) - 1) // 2]
    return Score(chosen.score, chosen.step, chosen.log_score_id)


SCORER: Final = Scorer("recentmedian", tiers, median)

"""Define recentmedian, the pool's scorer: the median of the recent scores of the server's pairs.

The median ensures that a single monitor, whether defective, badly connected or hostile, can neither remove a good
server from the pool nor keep a bad one. With an even number of scores, the lower of the two middle
ones counts, that is, the worse.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from runtime.db.system_settings import Intervals
from schema.messages import PairStatus
from scorer.model import PairScore, Score, Scorer, Tier

RECENT: Final = 2.2
"""Number of intervals within which a monitor counts: one result may be missing, and the next a little late."""

FEWEST: Final = 3
"""Minimum results for a median."""


def tiers(intervals: Intervals) -> tuple[Tier, ...]:
    """Return the tiers: active monitors; then active and testing ones; then testing ones and candidates."""

    def tier(interval: float, *statuses: PairStatus) -> Tier:
        return Tier(frozenset(statuses), timedelta(seconds=RECENT * interval))

    return (
        tier(intervals.interval_active, "active"),
        tier(intervals.interval_testing, "active", "testing"),
        tier(intervals.interval_candidate, "testing", "candidate"),
    )


def median(results: Sequence[PairScore]) -> Score:
    """Return the score of the middle result by score, then rtt, then id; of fewer than three, the oldest result's.

    Results without an rtt (0 or NULL) sort first, as in SQL. With two results it is unknown which one is wrong, so the
    older one counts, and a new monitor alone cannot change a score.
    """
    if len(results) < FEWEST:
        chosen = min(results, key=lambda r: (r.ts, r.log_score_id))
    else:
        ordered = sorted(results, key=lambda r: (r.score, r.rtt or 0, r.log_score_id))
        chosen = ordered[(len(ordered) - 1) // 2]
    return Score(chosen.score, chosen.step, chosen.log_score_id)


SCORER: Final = Scorer("recentmedian", tiers, median)

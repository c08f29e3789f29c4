"""Define the model of a scorer, a pure function from the scores of a server's pairs to the score of the server.

A scorer uses the latest result of each monitor, in tiers: the first tier with a result decides. Tiers are data, so that
a query can read exactly the rows of a tier, and the same rules apply to rows from any other source.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from runtime.db.system_settings import Intervals
from schema.messages import PairStatus


class PairScore(NamedTuple):
    """The score of a (server, monitor) pair as one result left it: a row of ``log_scores`` and the pair's status."""

    log_score_id: int
    monitor_id: int
    status: PairStatus | None
    """None if the monitor is no longer paired with the server."""
    ts: datetime
    """Time of the result, naive UTC as in the ledger."""
    score: float
    step: float
    """Contribution of the result to the score."""
    rtt: int | None
    """Microseconds."""
    stratum: int | None = None
    """Last stratum that the monitor received from the server; None if there is none yet."""


@dataclass(frozen=True, slots=True)
class Score:
    """A server's score."""

    score: float
    step: float
    """Step of the result that determined the score."""
    from_ls_id: int | None
    """Id of that result in ``log_scores``; None if the score is not that of a single result."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Results that may decide: those of pairs in one of ``statuses``, within ``window`` of the server's newest."""

    statuses: frozenset[PairStatus]
    window: timedelta


@dataclass(frozen=True, slots=True)
class Scorer:
    """A method to score servers, with a row in ``monitors`` of type ``score``."""

    name: str
    """Short public name."""
    tiers: Callable[[Intervals], Sequence[Tier]]
    """Return the tiers in the order of evaluation."""
    choose: Callable[[Sequence[PairScore]], Score]
    """Return the score from the latest results of a tier's monitors, at least one."""

    @property
    def tls_name(self) -> str:
        """Return the full name of its row, in a separate domain, so that no monitor can have it."""
        return f"{self.name}.scores.ntp.dev"

    def compute(self, results: Iterable[PairScore], intervals: Intervals) -> Score | None:
        """Return the server's score from all its results, in any order; None if no tier has a result.

        The windows end at the newest of ``results``, not now, so that a later computation gives the same score.
        """
        latest = latest_per_monitor(results)
        newest = max((result.ts for result in latest), default=None)
        if newest is None:
            return None
        for tier in self.tiers(intervals):
            seen = [r for r in latest if r.status in tier.statuses and r.ts >= newest - tier.window]
            if seen:
                return self.choose(seen)
        return None


def common_stratum(results: Iterable[PairScore]) -> int | None:
    """Return the most frequent stratum of the results, the lowest if several are; None if no result has one."""
    counts = Counter(result.stratum for result in results if result.stratum is not None)
    return min(counts, key=lambda stratum: (-counts[stratum], stratum), default=None)


def latest_per_monitor(results: Iterable[PairScore]) -> list[PairScore]:
    """Return the latest result of each monitor; of several in the same second, the one stored last."""
    latest: dict[int, PairScore] = {}
    for result in results:
        known = latest.get(result.monitor_id)
        if known is None or (known.ts, known.log_score_id) < (result.ts, result.log_score_id):
            latest[result.monitor_id] = result
    return list(latest.values())

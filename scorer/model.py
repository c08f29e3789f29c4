"""What a scorer is: a pure function from the scores of a server's monitors to one score of the server.

A scorer looks at the latest result of each monitor, in tiers: the first tier that holds any result decides. Because
the tiers are data, the ledger can be asked for exactly the rows that a tier needs, and the same rules can be applied
to rows from anywhere else.
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
    """None: the monitor measured the server once, but is no longer paired with it."""
    ts: datetime
    """Of the result: UTC without a zone, as the ledger has it."""
    score: float
    step: float
    """What the result added to the score."""
    rtt: int | None
    """Microseconds."""
    stratum: int | None = None
    """What the server last told the monitor; None: nothing yet."""


@dataclass(frozen=True, slots=True)
class Score:
    """A server's score."""

    score: float
    step: float
    """Of the result that the score was taken from."""
    from_ls_id: int | None
    """That result's row of ``log_scores``; None when the score is not that of a single result."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Which results may decide: those of pairs in one of ``statuses``, within ``window`` of the server's newest."""

    statuses: frozenset[PairStatus]
    window: timedelta


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to score servers, known to the ledger as a row of ``monitors`` with type ``score``."""

    name: str
    """Short name, as the public sees it."""
    tiers: Callable[[Intervals], Sequence[Tier]]
    """In the order in which they are tried."""
    choose: Callable[[Sequence[PairScore]], Score]
    """The score from the latest result of each monitor of a tier, at least one."""

    @property
    def tls_name(self) -> str:
        """The full name of its row; in a domain of its own, so that no monitor can have it."""
        return f"{self.name}.scores.ntp.dev"

    def compute(self, results: Iterable[PairScore], intervals: Intervals) -> Score | None:
        """The server's score from all its results, in any order; None when no tier holds any.

        The windows end at the newest of ``results``, not now: computing it later gives the same.
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
    """The stratum that most of the monitors were told, the lowest of several; None when none was told any."""
    told = Counter(result.stratum for result in results if result.stratum is not None)
    return min(told, key=lambda stratum: (-told[stratum], stratum), default=None)


def latest_per_monitor(results: Iterable[PairScore]) -> list[PairScore]:
    """The latest result of each monitor; of several in the same second, the one that was stored last."""
    latest: dict[int, PairScore] = {}
    for result in results:
        known = latest.get(result.monitor_id)
        if known is None or (known.ts, known.log_score_id) < (result.ts, result.log_score_id):
            latest[result.monitor_id] = result
    return list(latest.values())

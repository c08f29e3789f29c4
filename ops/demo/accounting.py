"""Whether anything was lost or counted twice: a pure account of what the ledger holds.

The ledger is held to itself and to a witness. Every score must be what its log rows, applied once each and in the
order in which they were stored, make of it; every log row must belong to a batch; and every batch that a witness saw on
the wire must be in the ledger, whole.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from schema.messages import Result
from scorer.steps import next_score, step

_OFFSETS: Final = 20_000
"""Offsets of one server that its median is taken from: the last ones."""

Pair = tuple[int, int]
"""Server and monitor."""

BatchKey = tuple[int, str]
"""Monitor and ULID."""


@dataclass(frozen=True, slots=True)
class LogRow:
    """A result as the ledger has it; offset in seconds, rtt in microseconds."""

    server_id: int
    monitor_id: int
    ts: datetime
    score: float
    step: float
    offset: float | None
    rtt: int | None
    stratum: int | None
    error: str | None
    no_response: bool

    @property
    def pair(self) -> Pair:
        return self.server_id, self.monitor_id

    def result(self) -> Result:
        """What the monitor must have said."""
        return Result(
            server_id=self.server_id,
            ip="",
            ts=self.ts.astimezone(),
            offset=self.offset,
            stratum=self.stratum,
            error=self.error,
            no_response=self.no_response,
        )


@dataclass(slots=True)
class Replay:
    """All log rows of monitors, in the order in which they were stored, applied once each."""

    rows: int = 0
    by_monitor: Counter[int] = field(default_factory=Counter)
    repeated: int = 0
    """Rows that hold the same measurement as the one before of the same pair."""
    wrong: int = 0
    """Rows whose score does not follow from the one before, or that were not scored as their result says."""
    scores: dict[Pair, float] = field(default_factory=dict)
    offsets: defaultdict[int, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_OFFSETS)))
    """By server."""
    _last: dict[Pair, tuple[float, int | None]] = field(default_factory=dict)

    def add(self, row: LogRow) -> None:
        """Applies the next row."""
        self.rows += 1
        self.by_monitor[row.monitor_id] += 1
        taken = step(row.result())
        expected = next_score(self.scores.get(row.pair, 0.0), taken)
        self.wrong += not (_same(row.step, taken.step) and _same(row.score, expected))
        self.scores[row.pair] = row.score
        if row.offset is not None:
            # Two measurements never agree in all 64 bits, save by being one.
            self.repeated += self._last.get(row.pair) == (row.offset, row.rtt)
            self._last[row.pair] = (row.offset, row.rtt)
            self.offsets[row.server_id].append(row.offset)

    def all(self, rows: Iterable[LogRow]) -> "Replay":
        """Applies many rows; returns itself."""
        for row in rows:
            self.add(row)
        return self


@dataclass(frozen=True, slots=True)
class Spooled:
    """What the agents' spools say at the end."""

    waiting: Collection[str] = ()
    """ULIDs of the batches that are still in a spool: not lost, only late."""
    dropped: int = 0
    """Results that an agent dropped."""
    set_aside: int = 0
    """Batches that ingest refused."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the results."""

    committed: int
    lost: int
    duplicated: int
    rejected: int
    waiting: int
    """Batches still in a spool."""
    unscored: int
    """Pairs and log rows whose score is not what their results make of it."""
    reasons: tuple[str, ...]
    """What is wrong, in words; nothing when all is well."""

    @property
    def good(self) -> bool:
        """Nothing was lost, nothing counted twice."""
        return not self.reasons


def settle(
    replay: Replay,
    batches: Mapping[BatchKey, tuple[int, int]],
    pair_scores: Mapping[Pair, float],
    witnessed: Mapping[BatchKey, int],
    spooled: Spooled,
) -> Account:
    """The account of a system that has come to rest.

    Args:
        batches: how many results were stored and how many rejected, of each batch in the ledger.
        pair_scores: of the monitors' pairs in the ledger.
        witnessed: how many results each batch had that was seen on the wire.
    """
    stored_by_monitor: Counter[int] = Counter()
    for (monitor_id, _), (stored, _) in batches.items():
        stored_by_monitor[monitor_id] += stored
    missing = [size for key, size in witnessed.items() if key not in batches and key[1] not in spooled.waiting]
    short = [size - sum(batches[key]) for key, size in witnessed.items() if key in batches]
    without_row = sum((stored_by_monitor - replay.by_monitor).values())
    rejected = sum(refused for _, refused in batches.values())
    lost = sum(missing) + sum(map(abs, short)) + without_row + rejected + spooled.dropped
    without_batch = sum((replay.by_monitor - stored_by_monitor).values())
    scores = {pair: replay.scores.get(pair, 0.0) for pair in pair_scores}
    moved = sum(not _same(score, scores[pair]) for pair, score in pair_scores.items())
    findings = {
        f"{sum(missing)} results of {len(missing)} batches that were sent are not in the ledger": len(missing),
        f"{sum(map(abs, short))} results are missing from batches in the ledger": sum(map(abs, short)),
        f"{without_row} results of committed batches have no log row": without_row,
        f"{rejected} results were rejected": rejected,
        f"{spooled.dropped} results were dropped from a spool": spooled.dropped,
        f"{spooled.set_aside} batches were refused": spooled.set_aside,
        f"{without_batch} log rows belong to no batch": without_batch,
        f"{replay.repeated} measurements were stored twice": replay.repeated,
        f"{replay.wrong} log rows have a score that does not follow from the one before": replay.wrong,
        f"{moved} pairs have another score than their last log row": moved,
    }
    return Account(
        committed=sum(stored_by_monitor.values()),
        lost=lost,
        duplicated=without_batch + replay.repeated,
        rejected=rejected,
        waiting=len(spooled.waiting),
        unscored=replay.wrong + moved,
        reasons=tuple(text for text, count in findings.items() if count),
    )


def _same(one: float, other: float) -> bool:
    """Equal but for the last bits, which a database may round."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)

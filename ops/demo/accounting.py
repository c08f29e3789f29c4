"""Whether anything was lost or counted twice: a pure account of what the ledger holds.

The ledger is held to itself and to a witness. Every score must be what its log rows, applied once each and in the
order in which they were stored, make of it; every log row must belong to a batch; and every batch that a witness saw on
the wire must be in the ledger, whole.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
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

    waiting: Mapping[BatchKey, int] = field(default_factory=dict)
    """Results of the batches that are still in a spool: not lost, only late."""
    dropped: Mapping[int, int] = field(default_factory=dict)
    """Results that an agent dropped, by monitor."""
    set_aside: int = 0
    """Batches that ingest refused, or that could not be read."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the account of a system that has come to rest is made from."""

    replay: Replay
    batches: Mapping[BatchKey, tuple[int, int]]
    """How many results were stored and how many rejected, of each batch in the ledger."""
    pair_scores: Mapping[Pair, float]
    """Of the monitors' pairs in the ledger."""
    witnessed: Mapping[BatchKey, int]
    """How many results each batch had that was seen on the wire."""
    measured: Mapping[int, int] = field(default_factory=dict)
    """How many results a monitor has measured, where its agent knows them all."""
    spooled: Spooled = field(default_factory=Spooled)

    def stored(self) -> Counter[int]:
        """Results in the ledger by monitor, as its batches say."""
        counts: Counter[int] = Counter()
        for (monitor_id, _), (stored, _) in self.batches.items():
            counts[monitor_id] += stored
        return counts

    def known_of(self, monitor_id: int) -> int:
        """Results of a monitor of which anybody knows what became of them."""
        in_ledger = sum(sum(sizes) for (of, _), sizes in self.batches.items() if of == monitor_id)
        waiting = sum(results for (of, _), results in self.spooled.waiting.items() if of == monitor_id)
        return in_ledger + waiting + self.spooled.dropped.get(monitor_id, 0)


def settle(evidence: Evidence) -> Account:
    """The account."""
    replay, batches, spooled = evidence.replay, evidence.batches, evidence.spooled
    stored = evidence.stored()
    known = batches.keys() | spooled.waiting.keys()
    unseen = {key: size for key, size in evidence.witnessed.items() if key not in known}
    short = sum(abs(size - sum(batches[key])) for key, size in evidence.witnessed.items() if key in batches)
    balance = {monitor: count - evidence.known_of(monitor) for monitor, count in evidence.measured.items()}
    vanished = sum(max(0, difference) for difference in balance.values())
    invented = sum(max(0, -difference) for difference in balance.values())
    without_row = sum((stored - replay.by_monitor).values())
    without_batch = sum((replay.by_monitor - stored).values())
    rejected = sum(refused for _, refused in batches.values())
    dropped = sum(spooled.dropped.values())
    moved = _moved(evidence)
    findings = {
        f"{sum(unseen.values())} results of {len(unseen)} batches that were sent are not in the ledger": len(unseen),
        f"{short} results are missing from batches in the ledger": short,
        f"{vanished} results that agents measured are nowhere": vanished,
        f"{invented} results are more than the agents measured": invented,
        f"{without_row} results of committed batches have no log row": without_row,
        f"{without_batch} log rows belong to no batch": without_batch,
        f"{rejected} results were rejected": rejected,
        f"{dropped} results were dropped from a spool": dropped,
        f"{spooled.set_aside} batches were refused or torn": spooled.set_aside,
        f"{replay.repeated} measurements were stored twice": replay.repeated,
        f"{replay.wrong} log rows have a score that does not follow from the one before": replay.wrong,
        f"{moved} pairs have another score than their last log row": moved,
    }
    return Account(
        committed=stored.total(),
        # What vanished may have been seen on the wire: it is lost once.
        lost=max(sum(unseen.values()) + short, vanished) + without_row + rejected + dropped,
        duplicated=max(without_batch + replay.repeated, invented),
        rejected=rejected,
        waiting=len(spooled.waiting),
        unscored=replay.wrong + moved,
        reasons=tuple(text for text, count in findings.items() if count),
    )


def _moved(evidence: Evidence) -> int:
    """Pairs whose score is not that of their last log row."""
    last = evidence.replay.scores
    return sum(not _same(score, last.get(pair, 0.0)) for pair, score in evidence.pair_scores.items())


def _same(one: float, other: float) -> bool:
    """Equal but for the last bits, which a database may round."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)

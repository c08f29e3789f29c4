"""All results of the ledger once more, in the order in which they were stored, applied once each to the scores."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from schema.messages import Result
from scorer.formula import next_score, step
from testbed.checker.difference import Difference

_OFFSETS: Final = 20_000
"""Offsets of one server that are remembered: the last ones."""

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
    id: int = 0
    leap: int | None = None

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
            leap=self.leap,
            error=self.error,
            no_response=self.no_response,
        )

    def __str__(self) -> str:
        return f"log row {self.id} (server {self.server_id}, monitor {self.monitor_id}, {self.ts})"


@dataclass(slots=True)
class Replay:
    """The log rows of monitors, in the order in which they were stored.

    ``scores`` are at first those of the pairs before the first row; a pair without one began at 0.
    """

    scores: dict[Pair, float] = field(default_factory=dict)
    trusting: bool = False
    """Take the score of a pair's first row as it is: the rows before it may be gone for their age."""
    rows: int = 0
    by_monitor: Counter[int] = field(default_factory=Counter)
    servers: set[int] = field(default_factory=set)
    repeated: int = 0
    """Rows that hold the same measurement as the one before of the same pair."""
    differences: list[Difference] = field(default_factory=list)
    offsets: defaultdict[int, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_OFFSETS)))
    """By server."""
    _last: dict[Pair, tuple[float, int | None]] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """Rows whose score does not follow from the one before, or that were not scored as their result says."""
        return len(self.differences)

    def add(self, row: LogRow) -> None:
        """Applies the next row."""
        self.rows += 1
        self.by_monitor[row.monitor_id] += 1
        self.servers.add(row.server_id)
        self._compare(row)
        self.scores[row.pair] = row.score
        if row.offset is not None:
            # Two measurements never agree in all 64 bits, save by being one.
            self.repeated += self._last.get(row.pair) == (row.offset, row.rtt)
            self._last[row.pair] = (row.offset, row.rtt)
            self.offsets[row.server_id].append(row.offset)

    def _compare(self, row: LogRow) -> None:
        taken = step(row.result())
        before = self.scores.get(row.pair)
        if not same(row.step, taken.step):
            self._differ(f"{row} has step {row.step!r}, its result makes {taken.step!r}")
        elif before is not None or not self.trusting:
            expected = next_score(before or 0.0, taken)
            if not same(row.score, expected):
                self._differ(f"{row} has score {row.score!r}, the results up to it make {expected!r}")

    def _differ(self, text: str) -> None:
        self.differences.append(Difference("score", text))

    def all(self, rows: Iterable[LogRow]) -> "Replay":
        """Applies many rows; returns itself."""
        for row in rows:
            self.add(row)
        return self

    def compare_pairs(self, pair_scores: Mapping[Pair, float]) -> list[Difference]:
        """Pairs of the ledger whose score is not that of their last row."""
        return [
            Difference("score", f"server {s}, monitor {m} has score {score!r}, its last row {last!r}")
            for (s, m), score in pair_scores.items()
            if (last := self._last_score((s, m), score)) is not None and not same(score, last)
        ]

    def _last_score(self, pair: Pair, score: float) -> float | None:
        """None: nobody knows."""
        return self.scores.get(pair, None if self.trusting else 0.0)


def same(one: float, other: float) -> bool:
    """Equal but for the last bits, which a database may round."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)

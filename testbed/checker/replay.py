"""Replay all results of the ledger, in the order in which they were stored, and compute the scores again."""

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
"""Number of last offsets kept per server."""

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
        """Return the result that the monitor must have sent."""
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
    """Replay the log rows of monitors, in the order in which they were stored.

    ``scores`` are initially those of the pairs before the first row; a pair without one began at 0.
    """

    scores: dict[Pair, float] = field(default_factory=dict)
    trusting: bool = False
    """Accept the score of a pair's first row: earlier rows may have expired."""
    rows: int = 0
    by_monitor: Counter[int] = field(default_factory=Counter)
    servers: set[int] = field(default_factory=set)
    repeated: int = 0
    """Rows with the same measurement as the previous one of the same pair."""
    differences: list[Difference] = field(default_factory=list)
    offsets: defaultdict[int, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_OFFSETS)))
    """By server."""
    _last: dict[Pair, tuple[float, int | None]] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """Rows whose score does not follow from the previous one, or whose step does not follow from their result."""
        return len(self.differences)

    def add(self, row: LogRow) -> None:
        """Apply the next row."""
        self.rows += 1
        self.by_monitor[row.monitor_id] += 1
        self.servers.add(row.server_id)
        self._compare(row)
        self.scores[row.pair] = row.score
        if row.offset is not None:
            # Two different measurements never agree in all 64 bits.
            self.repeated += self._last.get(row.pair) == (row.offset, row.rtt)
            self._last[row.pair] = (row.offset, row.rtt)
            self.offsets[row.server_id].append(row.offset)

    def _compare(self, row: LogRow) -> None:
        taken = step(row.result())
        before = self.scores.get(row.pair)
        if not same(row.step, taken.step):
            self._differ(f"{row} has step {row.step!r}, its result gives {taken.step!r}")
        elif before is not None or not self.trusting:
            expected = next_score(before or 0.0, taken)
            if not same(row.score, expected):
                self._differ(f"{row} has score {row.score!r}, the results up to it give {expected!r}")

    def _differ(self, text: str) -> None:
        self.differences.append(Difference("score", text))

    def all(self, rows: Iterable[LogRow]) -> "Replay":
        """Apply many rows; return ``self``."""
        for row in rows:
            self.add(row)
        return self

    def compare_pairs(self, pair_scores: Mapping[Pair, float]) -> list[Difference]:
        """Return the ledger's pairs whose score differs from that of their last row."""
        return [
            Difference("score", f"server {s}, monitor {m} has score {score!r}, its last row has {last!r}")
            for (s, m), score in pair_scores.items()
            if (last := self._last_score((s, m), score)) is not None and not same(score, last)
        ]

    def _last_score(self, pair: Pair, score: float) -> float | None:
        """Return the last score; None: unknown."""
        return self.scores.get(pair, None if self.trusting else 0.0)


def same(one: float, other: float) -> bool:
    """Return whether two scores are equal but for the last bits, which a database may round."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)

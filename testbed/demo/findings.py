"""Explain from measurements why a server is not handed out: a pure function of its last results."""

import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from runtime.printable import printable
from scorer.policy import HANDED_OUT_ABOVE
from testbed.checker.replay import LogRow

_SETTLES_AT: Final = 20.0
"""The ratio of a settled score to the mean step: each result multiplies the score by 0.95 and adds a step."""

_LAST: Final = 100
"""Maximum number of a server's results to consider."""

_ALWAYS: Final = 0.95
"""The share of the results from which on the message omits it."""

_CLOCK: Final = "clock"
_LONGEST: Final = 24
"""Maximum length of an error's text."""


@dataclass(slots=True)
class Findings:
    """The last results of each server (by id)."""

    _rows: defaultdict[int, deque[LogRow]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_LAST)))

    def all(self, rows: Iterable[LogRow]) -> "Findings":
        """Add many rows; return ``self``."""
        for row in rows:
            self._rows[row.server_id].append(row)
        return self

    def against(self, server_id: int, score: float | None, may_serve: int) -> str | None:
        """Return why this server is not handed out; None if it is.

        Args:
            may_serve: the number of monitors that may measure it.
        """
        rows = self._rows.get(server_id)
        if score is not None and score > HANDED_OUT_ABOVE:
            return None
        if not rows:
            return "no results" if may_serve else "every monitor shares its account or network"
        if score is None:
            return "no score"
        if _SETTLES_AT * statistics.mean(row.step for row in rows) > HANDED_OUT_ABOVE:
            return "score is still rising"
        return _warning(rows) or "score is still rising"


def _warning(rows: Iterable[LogRow]) -> str | None:
    """Describe what most of the results that cost points have in common."""
    kinds = [_kind(row) for row in rows]
    counts = Counter(kind for kind in kinds if kind is not None)
    if not counts:
        return None
    kind, times = counts.most_common(1)[0]
    text = _off_by(rows) if kind == _CLOCK else kind
    share = times / len(kinds)
    return text if share >= _ALWAYS else f"{text}, {share:.0%} of the time"


def _kind(row: LogRow) -> str | None:
    if row.step >= 0:
        return None
    if row.no_response:
        return "does not answer"
    if row.error:
        return f"error: {printable(row.error)[:_LONGEST]}"
    return "sends no time" if row.offset is None else _CLOCK


def _off_by(rows: Iterable[LogRow]) -> str:
    offset = statistics.median(row.offset for row in rows if row.offset is not None and _kind(row) == _CLOCK)
    size = f"{abs(offset):.1f} s" if abs(offset) >= 1 else f"{abs(offset) * 1e3:.0f} ms"
    return f"clock is {size} {'ahead' if offset > 0 else 'behind'}"

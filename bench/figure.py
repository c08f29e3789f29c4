"""Print a benchmark's figures: one JSON object per figure, with its unit, its bound and the conditions."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure. Exactly one of ``at_most`` and ``at_least`` is its bound; neither: for comparison only."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    def as_json(self) -> dict[str, Any]:
        """Return the figure as JSON, with place and time of the measurement."""
        bounds = {"at_most": self.at_most, "at_least": self.at_least, "met": self.met}
        return {
            "figure": self.name,
            "value": round(self.value, 6),
            "unit": self.unit,
            **{key: value for key, value in bounds.items() if value is not None},
            "conditions": dict(self.conditions),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "date": datetime.now(UTC).date().isoformat(),
        }


def report(*figures: Figure) -> int:
    """Print the figures, one per line; return the exit status, 1 if a bound was missed or nothing was measured."""
    for figure in figures:
        sys.stdout.write(json.dumps(figure.as_json()) + "\n")
    sys.stdout.flush()
    return 1 if not figures or any(figure.met is False for figure in figures) else 0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` of them do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values for a percentile")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the 50th percentile."""
    return percentile(values, 50)

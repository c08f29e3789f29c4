"""Print a fault run's report: a line for each fault and each difference, and one JSON object at the end."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from bench.faults.plan import CLUSTER_NAMES, Planned
from bench.faults.verdict import Verdict
from testbed.checker.difference import Difference, lines

RENEWED_WITHIN: Final = 240.0
"""Seconds, twice the life of a certificate, after which agents must have renewed theirs."""


class Struck(msgspec.Struct, frozen=True):
    """A fault that occurred. ``reached``: for a fault at a point, whether the process reached it."""

    planned: Planned
    reached: bool = True


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line."""

    good: bool
    seed: int
    seconds: float
    rounds: int
    faults: dict[str, int]
    """Number of faults by kind."""
    points: dict[str, int]
    """Number of deaths by point."""
    left_out: list[str]
    """Kinds that this machine does not allow."""
    ipv6: bool = False
    results_attempted: int
    results_acknowledged: int
    results_stored: int
    results_discarded: int
    """Results that agents discarded deliberately, because their clock was set."""
    certificates_renewed: int = 0
    lost: int
    duplicated: int
    unexplained: int
    """All other differences, and processes that ended unexpectedly."""
    unseen: list[str]
    """Why the run could not have detected a problem: such a run is not good, whatever it found."""


def say(text: str) -> None:
    """Print a progress line."""
    sys.stderr.write(f"faults: {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Found:
    """All problems found."""

    differences: list[Difference] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    """Processes that ended unexpectedly, each with the end of its log."""

    def __bool__(self) -> bool:
        return bool(self.differences or self.died)

    def __len__(self) -> int:
        return len(self.differences) + len(self.died)


def summarize(seed: int, seconds: float, rounds: int, struck: Sequence[Struck], last: Verdict, found: Found) -> Summary:
    """Summarize the run in figures. ``last`` is the verdict of the last round, which covers all rounds."""
    kinds = Counter(one.planned.kind for one in struck)
    points = Counter(one.planned.target for one in struck if one.reached and "point" in one.planned.kind)
    count = Counter(difference.kind for difference in found.differences)
    lost, duplicated = count["lost"], count["duplicated"] + count["invented"]
    unseen = _unseen(struck, last, seconds)
    return Summary(
        good=not found and not unseen,
        seed=seed,
        seconds=round(seconds, 1),
        rounds=rounds,
        faults={name: kinds[name] for name in CLUSTER_NAMES if kinds[name]},
        points=dict(sorted(points.items())),
        left_out=[],
        results_attempted=last.attempted,
        results_acknowledged=last.acknowledged,
        results_stored=last.stored,
        results_discarded=last.discarded,
        certificates_renewed=last.renewals,
        lost=lost,
        duplicated=duplicated,
        unexplained=len(found) - lost - duplicated,
        unseen=unseen,
    )


def _unseen(struck: Sequence[Struck], last: Verdict, seconds: float) -> list[str]:
    reasons = {
        "no fault occurred": not struck,
        "no result was attempted": not last.attempted,
        "no result was acknowledged": not last.acknowledged,
        "no result was stored": not last.stored,
        "no certificate was renewed": not last.renewals and seconds > RENEWED_WITHIN,
    }
    return [reason for reason, holds in reasons.items() if holds]


def print_all(summary: Summary, found: Found) -> None:
    """Print each difference and death, and the summary."""
    died = (f"died: {death}" for death in found.died)
    for line in (*lines(found.differences), *died, *(f"unseen: {reason}" for reason in summary.unseen)):
        sys.stdout.write(line + "\n")
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    sys.stdout.flush()

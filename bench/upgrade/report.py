"""Report an upgrade: progress lines, the differences, and one JSON object at the end."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent.version import VERSION as VERSION_HERE
from testbed.checker.difference import Difference, lines
from testbed.checker.replay import BatchKey
from testbed.former_release import COMMIT, VERSION

SWITCHES: Final = 3
"""Each agent is upgraded, downgraded and upgraded again."""


@dataclass(slots=True)
class Findings:
    """What the run has seen."""

    differences: list[Difference] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What a process of either release did not do, in words."""
    tables: tuple[str, str] = ("", "")
    """Versions of the tables before and after."""
    upgrade_seconds: float = 0.0
    longest_gap_seconds: float = 0.0
    switched: dict[str, int] = field(default_factory=dict)
    """For each switch of an agent, the number of batches that waited in its spool."""
    must_arrive: set[BatchKey] = field(default_factory=set)
    """These batches."""
    results: int = 0
    agent_versions: dict[str, set[str]] = field(default_factory=dict)
    """Versions that sent batches, by agent."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line."""

    good: bool
    former: str
    """The commit of the former release."""
    tables: list[str]
    """Versions of the tables before and after."""
    seconds: float
    results_stored: int
    upgrade_seconds: float
    """Duration of ``db upgrade``."""
    longest_gap_seconds: float
    """Longest time without a new result in the ledger, from the start of ``db upgrade`` on."""
    switched: dict[str, int]
    """For each switch of an agent, the number of batches that waited in its spool."""
    lost: int
    duplicated: int
    unexplained: int
    """All other differences, and failures of processes."""
    unseen: list[str]
    """Why the run could not have detected a problem: such a run is not good, whatever it found."""


def say(text: str) -> None:
    """Print a progress line."""
    sys.stderr.write(f"upgrade: {text}\n")
    sys.stderr.flush()


def summarize(found: Findings, seconds: float, agents: int) -> Summary:
    """Summarize a run with so many agents."""
    count = Counter(difference.kind for difference in found.differences)
    lost, duplicated = count["lost"], count["duplicated"] + count["invented"]
    unseen = _unseen(found, agents)
    return Summary(
        good=not found.differences and not found.failed and not unseen,
        former=COMMIT[:7],
        tables=list(found.tables),
        seconds=round(seconds, 1),
        results_stored=found.results,
        upgrade_seconds=round(found.upgrade_seconds, 1),
        longest_gap_seconds=round(found.longest_gap_seconds, 1),
        switched=found.switched,
        lost=lost,
        duplicated=duplicated,
        unexplained=len(found.differences) - lost - duplicated + len(found.failed),
        unseen=unseen,
    )


def _unseen(found: Findings, agents: int) -> list[str]:
    reasons = ["no result was stored"] if not found.results else []
    if len(found.switched) != SWITCHES * agents:
        reasons.append(f"{len(found.switched)} switches of agents, not {SWITCHES * agents}")
    reasons += [f"no batch waited: {switch}" for switch, batches in found.switched.items() if not batches]
    for name, versions in sorted(found.agent_versions.items()):
        if versions != {VERSION, VERSION_HERE}:
            reasons.append(f"{name} sent batches as {', '.join(sorted(versions))}")
    return reasons


def print_all(summary: Summary, found: Findings) -> None:
    """Print each difference and failure, and the summary."""
    failed = (f"failed: {text}" for text in found.failed)
    for line in (*lines(found.differences), *failed, *(f"unseen: {reason}" for reason in summary.unseen)):
        sys.stdout.write(line + "\n")
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    sys.stdout.flush()

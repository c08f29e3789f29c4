"""Observe the selector's decisions in the ledger as they are committed, and match them with the agents' messages."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.world import monitor_name
from runtime.db.engine import reading
from schema.tables import assignment_changes
from testbed.load.record import AssignmentReceived, read_lines
from testbed.stack import CannotRun

_LOOK_EVERY: Final = 0.003

_Pair = tuple[str, int]
"""Full name of a monitor, and id of a server."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A pair changed its status; committed not before ``after`` (Unix time)."""

    server_id: int
    monitor_id: int
    status: str
    after: float


@dataclass(slots=True)
class Decisions:
    """Poll the ledger repeatedly, in a thread."""

    engine: Engine
    found: list[Decision] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    """Seconds between two polls."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until ``stop`` is set. Skip earlier decisions, since their commit times are unknown."""
        changes = assignment_changes.c
        query = sa.select(changes.id, changes.server_id, changes.monitor_id, changes.after_status)
        with reading(self.engine) as connection:
            before = time.time()
            last_id = connection.scalar(sa.select(sa.func.max(changes.id))) or 0
            while not self.stop.wait(_LOOK_EVERY):
                now = time.time()
                for row in connection.execute(query.where(changes.id > last_id).order_by(changes.id)):
                    last_id = row.id
                    # The previous poll began before the commit.
                    self.found.append(Decision(row.server_id, row.monitor_id, row.after_status, before))
                self.looks.append(now - before)
                before = now


def received(record: Path) -> Iterator[AssignmentReceived]:
    """Return the assignments that agents received, from a record."""
    return (line for line in read_lines(record) if isinstance(line, AssignmentReceived))


def times(decisions: Iterable[Decision], record: Path) -> list[float]:
    """Return the seconds from each decision until its agent received it, or received a later decision about the pair.

    The selector publishes the state of the ledger, so one message may cover several decisions.

    Raises:
        CannotRun: an agent never received a decision.
    """
    arrivals, decided = defaultdict[_Pair, list[AssignmentReceived]](list), defaultdict[_Pair, list[Decision]](list)
    for line in received(record):
        arrivals[line.monitor, line.server_id].append(line)
    for decision in decisions:
        decided[monitor_name(decision.monitor_id), decision.server_id].append(decision)
    return [seconds for pair, of_pair in decided.items() for seconds in _times_of_pair(of_pair, arrivals[pair])]


def _times_of_pair(decided: Sequence[Decision], arrivals: Sequence[AssignmentReceived]) -> Iterator[float]:
    """Yields the times of one pair in the order of its decisions; no message is matched out of order."""
    first = 0
    for number, decision in enumerate(decided):
        known = (at for at in range(first, len(arrivals)) if _announces(arrivals[at], decided[number:]))
        first = next(known, len(arrivals))
        if first == len(arrivals):
            raise CannotRun(f"{decision} never reached its agent; {_story(decision, decided, arrivals)}")
        yield arrivals[first].at / 1e9 - decision.after


def _announces(arrival: AssignmentReceived, decided: Sequence[Decision]) -> bool:
    """Return whether the message carries the first of these decisions, or a later one made before it arrived."""
    status = arrival.status or "paused"  # the only one without an assignment
    return any(one.status == status and one.after <= arrival.at / 1e9 for one in decided)


def _story(lost: Decision, decided: Iterable[Decision], arrivals: Iterable[AssignmentReceived]) -> str:
    """All decisions about its pair and all messages to its agent, in seconds relative to the lost decision."""
    said = ", ".join(f"{one.status} {one.after - lost.after:+.3f}" for one in decided)
    heard = ", ".join(f"{line.status} {line.at / 1e9 - lost.after:+.3f}" for line in arrivals)
    return f"decided: {said}; received: {heard}"

"""Looks for the selector's decisions in the ledger as they are committed, and for the agents' word that they know."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.stage import CannotRun
from bench.world import monitor_name
from runtime.db.engine import reading
from schema.tables import assignment_changes
from testbed.load.record import Told, read_lines

_LOOK_EVERY: Final = 0.003


@dataclass(frozen=True, slots=True)
class Decision:
    """A monitor was moved on a server; committed not before ``after`` (Unix time)."""

    server_id: int
    monitor_id: int
    status: str
    after: float


@dataclass(slots=True)
class Decisions:
    """Looks again and again, in a thread."""

    engine: Engine
    found: list[Decision] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    """Seconds between two looks."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Looks until ``stop`` is set."""
        changes, last_id = assignment_changes.c, 0
        query = sa.select(changes.id, changes.server_id, changes.monitor_id, changes.after_status)
        with reading(self.engine) as connection:
            before = time.time()
            while not self.stop.wait(_LOOK_EVERY):
                now = time.time()
                for row in connection.execute(query.where(changes.id > last_id).order_by(changes.id)):
                    last_id = row.id
                    # The look before began when it was not there yet.
                    self.found.append(Decision(row.server_id, row.monitor_id, row.after_status, before))
                self.looks.append(now - before)
                before = now


def told(record: Path) -> Iterator[Told]:
    """What a record says that agents were told."""
    return (line for line in read_lines(record) if isinstance(line, Told))


def times(decisions: Iterable[Decision], record: Path) -> list[float]:
    """Seconds from each decision until its agent had it.

    Raises:
        CannotRun: an agent was never told.
    """
    arrivals: defaultdict[tuple[str, int], deque[Told]] = defaultdict(deque)
    for line in told(record):
        arrivals[line.monitor, line.server_id].append(line)
    found = []
    for decision in decisions:
        of_pair = arrivals[monitor_name(decision.monitor_id), decision.server_id]
        while of_pair and (of_pair[0].at / 1e9 < decision.after or of_pair[0].status != decision.status):
            of_pair.popleft()
        if not of_pair:
            raise CannotRun(f"{decision} never reached its agent")
        found.append(of_pair.popleft().at / 1e9 - decision.after)
    return found

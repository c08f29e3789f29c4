"""Read the ledger for the demo: the state of the servers while it runs, and all data at its end."""

import statistics
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ingest.plan import rejections_from_text
from schema.tables import assignment_changes, log_scores, monitors, result_batches, server_scores, servers
from testbed.checker import ledger as checked
from testbed.checker.replay import BatchKey

_RECENT: Final = 40
"""Number of a server's latest offsets for the median in the table: those of the last few seconds."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server's current state; ``measured`` is the median of recent offsets (s)."""

    id: int
    ip: str
    score: float | None
    measured: float | None
    active: int
    testing: int
    candidate: int
    paused: int


@dataclass(frozen=True, slots=True)
class State:
    """The current state of all servers."""

    committed: int
    """Number of results in the ledger."""
    changes: int
    """Number of status changes of pairs, without their creation."""
    servers: tuple[ServerState, ...]


class Watcher:
    """Read the state repeatedly; of the log, read new rows only."""

    def __init__(self) -> None:
        self._seen = 0
        self._offsets: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))

    def look(self, connection: Connection) -> State:
        """Return the current state."""
        self._read_offsets(connection)
        counts = pair_counts(connection)
        s = servers.c
        rows = connection.execute(sa.select(s.id, s.ip, s.score_raw, s.score_ts).order_by(s.id))
        states = tuple(self._server(row, counts.get(row.id, Counter())) for row in rows)
        return State(committed(connection), count_changes(connection), states)

    def _server(self, row: Any, counts: Counter[str]) -> ServerState:
        offsets = self._offsets[row.id]
        return ServerState(
            id=row.id,
            ip=row.ip,
            score=None if row.score_ts is None else row.score_raw,
            measured=statistics.median(offsets) if offsets else None,
            active=counts["active"],
            testing=counts["testing"],
            candidate=counts["candidate"],
            paused=counts["paused"],
        )

    def _read_offsets(self, connection: Connection) -> None:
        log = log_scores.c
        query = sa.select(log.id, log.server_id, log.offset).where(log.id > self._seen).order_by(log.id)
        for row in connection.execute(query):
            self._seen = row.id
            if row.offset is not None:
                self._offsets[row.server_id].append(row.offset)


def committed(connection: Connection) -> int:
    """Count the results in the ledger, according to its batches."""
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(result_batches.c.stored), 0))) or 0)


def count_changes(connection: Connection) -> int:
    """Count the status changes of pairs, without their creation."""
    query = sa.select(sa.func.count()).where(assignment_changes.c.before_status.is_not(None))
    return connection.scalar(query) or 0


def pair_counts(connection: Connection) -> dict[int, Counter[str]]:
    """Count each server's monitors by status."""
    p = server_scores.c
    query = (
        sa.select(p.server_id, p.status, sa.func.count().label("pairs"))
        .join(monitors, monitors.c.id == p.monitor_id)
        .where(monitors.c.type == "monitor")
        .group_by(p.server_id, p.status)
    )
    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row in connection.execute(query):
        counts[row.server_id][row.status] = row.pairs
    return dict(counts)


def batches(connection: Connection) -> dict[BatchKey, tuple[int, int]]:
    """Return, for each batch, how many of its results were stored and rejected."""
    return {key: (batch.stored, len(batch.rejected)) for key, batch in checked.batches(connection).items()}


def results_by_monitor(connection: Connection) -> Counter[str]:
    """Count each monitor's results that were stored or rejected; by full name."""
    b = result_batches.c
    names = {monitor_id: name for name, monitor_id in monitor_ids(connection).items()}
    stored = sa.select(b.monitor_id, sa.func.sum(b.stored).label("results")).group_by(b.monitor_id)
    counts = Counter({names[row.monitor_id]: int(row.results) for row in connection.execute(stored)})
    for row in connection.execute(sa.select(b.monitor_id, b.rejected).where(b.rejected.is_not(None))):
        counts[names[row.monitor_id]] += len(rejections_from_text(row.rejected))
    return counts


def monitor_ids(connection: Connection) -> dict[str, int]:
    """Return the monitors' ids by full name; the demo's monitors have one protocol each."""
    m = monitors.c
    rows = connection.execute(sa.select(m.id, m.tls_name).where(m.type == "monitor", m.ip.is_not(None)))
    return {row.tls_name: row.id for row in rows}

"""Collect what the page of a server shows, from a few bounded queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.engine import Connection

from scorer.scorers import POOL_SCORER
from web.model import Entry, Monitor, Server, newest_first
from web.store import history
from web.store.monitors import Change, changes_of, monitors_of
from web.verdict import Trouble, Verdict, judge, troubles, who_counts

HOURS: Final = 24
"""Hours of results in the table of monitors."""

_RESULTS: Final = 600
"""Newest rows of all monitors, from which the reasons come: some hours of a server with all its monitors."""

_SCORES: Final = 1500
"""Newest scores: two weeks of a score that does not change."""

_ORDER: Final = ("active", "testing", "candidate", "paused")


@dataclass(frozen=True, slots=True)
class Row:
    """A monitor in the table."""

    monitor: Monitor
    rtt_ms: float | None
    lost: float | None
    """Share of its results without an answer; None without results."""
    last: Entry | None


@dataclass(frozen=True, slots=True)
class ShownServer:
    """Content of a server's page."""

    server: Server
    verdict: Verdict
    troubles: Sequence[Trouble]
    rows: Sequence[Row]
    scorers: Sequence[Monitor]
    changes: Sequence[Change]
    hours: int = HOURS


def read_server(connection: Connection, server: Server, now: datetime) -> ShownServer:
    """Return what the page of a server shows."""
    monitors = monitors_of(connection, server.id)
    results = newest_first(history.newest(connection, server.id, _RESULTS, now, None))
    counting = who_counts(monitors)
    seen = troubles(results, counting, server.ip)
    scores = _scores(connection, server, monitors, now)
    sums = history.sums(connection, server.id, now - timedelta(hours=HOURS))
    return ShownServer(
        server=server,
        verdict=judge(server, scores, len(counting), now),
        troubles=seen,
        rows=_rows(monitors, results, sums),
        scorers=[one for one in monitors if one.type == "score"],
        changes=changes_of(connection, server.id),
    )


def _scores(connection: Connection, server: Server, monitors: Sequence[Monitor], now: datetime) -> list[Entry]:
    scorer = next((one for one in monitors if one.type == "score" and one.name == POOL_SCORER), None)
    if scorer is None:
        return []
    return newest_first(history.newest(connection, server.id, _SCORES, now, scorer.id))


def _rows(monitors: Sequence[Monitor], results: Sequence[Entry], sums: dict[int, history.Sums]) -> list[Row]:
    last: dict[int, Entry] = {}
    for entry in results:
        last.setdefault(entry.monitor_id, entry)
    rows = [_row(one, last.get(one.id), sums.get(one.id)) for one in monitors if one.type == "monitor"]
    return sorted(rows, key=lambda row: (_place(row.monitor.status), -row.monitor.score, row.monitor.name))


def _row(monitor: Monitor, last: Entry | None, sums: history.Sums | None) -> Row:
    if sums is None or not sums.results:
        return Row(monitor, None, None, last)
    return Row(monitor, None if sums.rtt is None else sums.rtt / 1000, sums.lost / sums.results, last)


def _place(status: str) -> int:
    return _ORDER.index(status) if status in _ORDER else len(_ORDER)

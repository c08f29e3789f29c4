"""Measure how many servers per second the scorer scores, with MariaDB and the log of a day.

Every server has 60 monitors at the default intervals (7 active, 12 testing, the others candidates), and about 1 950 log
rows of 24 h, which the selector's reviews and the public pages need. The batches are those of production.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from bench.figure import Figure, report
from runtime.db.engine import open_database, to_db, utc_now
from runtime.db.migrate import upgrade
from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals, Scoring
from schema.messages import PairStatus
from schema.tables import log_scores, monitors, server_scores, servers
from scorer.rounds import score_due
from scorer.scorers import all_scorers
from scorer.worker import add_missing_scorers
from testbed.database import temporary_database

MONITORS: Final[dict[PairStatus, int]] = {"active": 7, "testing": 12, "candidate": 41}
DAY: Final = 86_400
NOW: Final = to_db(datetime(2026, 1, 2, 12, tzinfo=UTC))
INTERVALS: Final = Intervals()


def main() -> int:
    """Measure and print the figures; return 0, since there is no bound."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--servers", type=int, default=400)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    with temporary_database() as database:
        engine = open_database(database.create("bench"))
        upgrade(engine)
        _fill(engine, given.servers)
        add_missing_scorers(engine, all_scorers())
        times = [time_ for number in range(given.rounds) for time_ in _round(engine, given.servers, number)]
        engine.dispose()
    per_second = [servers_ / seconds for servers_, seconds in times]
    conditions = {"servers": given.servers, "monitors": sum(MONITORS.values()), "batch": Scoring().batch_size}
    return report(
        Figure("scorer throughput", statistics.median(per_second), "servers/s", conditions=conditions),
        Figure("scorer batch", statistics.median(s for _, s in times), "s", conditions=conditions),
    )


def _round(engine: Engine, count: int, number: int) -> Iterator[tuple[int, float]]:
    """Give every server a new result of an active monitor and make it due; return servers and seconds of each batch."""
    with engine.begin() as connection:
        ts = NOW + timedelta(seconds=number + 1)
        rows = ({"server_id": s, "monitor_id": 1, "ts": ts, "score": random.uniform(5, 20)} for s in _ids(count))
        _insert(connection, log_scores, ({**row, "step": 1.0, "rtt": 20_000} for row in rows))
        SCORING.add(connection, _ids(count), utc_now())
        SCORING.make_due(connection, _ids(count), utc_now())
    limit = Scoring().batch_size
    while True:
        began = time.perf_counter()
        scored = score_due(engine, all_scorers(), INTERVALS, utc_now(), limit)
        if not scored.claimed:
            return
        yield scored.claimed, time.perf_counter() - began


def _ids(count: int) -> range:
    return range(1, count + 1)


def _statuses() -> list[PairStatus]:
    return [status for status, number in MONITORS.items() for _ in range(number)]


def _fill(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        _insert(connection, monitors, _monitor_rows())
        _insert(
            connection,
            servers,
            ({"id": s, "ip": f"10.{s >> 16}.{s >> 8 & 255}.{s & 255}", "created_on": NOW} for s in _ids(count)),
        )
        pairs = ((s, m, status) for s in _ids(count) for m, status in enumerate(_statuses(), 1))
        _insert(
            connection,
            server_scores,
            ({"server_id": s, "monitor_id": m, "status": status, "created_on": NOW} for s, m, status in pairs),
        )
        _insert(connection, log_scores, _log_rows(count))
    with engine.connect() as connection:
        connection.execute(sa.text("ANALYZE TABLE `log_scores`, `server_scores`, `servers`")).all()


def _monitor_rows() -> Iterator[dict[str, Any]]:
    for number in range(1, len(_statuses()) + 1):
        name = f"b{number}.devel.mon.example"
        yield {
            "id": number,
            "tls_name": name,
            "ip_version": "v4",
            "status": "active",
            "config": "{}",
            "created_on": NOW,
        }


def _log_rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield log rows in the order of their time, as a running system writes them."""
    moments = sorted(
        (second, server, monitor)
        for server in _ids(count)
        for monitor, status in enumerate(_statuses(), 1)
        for second in range(random.randrange(int(INTERVALS.of(status))), DAY, int(INTERVALS.of(status)))
    )
    for second, server, monitor in moments:
        ts = NOW - timedelta(seconds=DAY - second)
        score = random.uniform(5, 20)
        yield {"server_id": server, "monitor_id": monitor, "ts": ts, "score": score, "step": 1.0, "rtt": 20_000}


def _insert(connection: Connection, table: sa.Table, rows: Iterator[dict[str, Any]]) -> None:
    remaining = iter(rows)
    while chunk := list(islice(remaining, 5_000)):
        connection.execute(sa.insert(table), chunk)


if __name__ == "__main__":
    sys.exit(main())

"""Measure how many results per second one ingest worker writes to MariaDB, without broker and network.

The same run measures a row-at-a-time writer for comparison: five statements per result, one transaction per batch. Each
commit is flushed to the disk, as in production.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from agent.delivery.ulid import new_ulid
from bench.figure import Figure, median, report
from ingest.commit import MOST_RESULTS
from ingest.messages import Submission
from ingest.transaction import commit
from runtime.db.engine import open_database, to_db, utc_now
from runtime.db.migrate import upgrade
from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals
from schema.messages import Batch, Result
from schema.tables import log_scores, monitors, result_batches, scoring_queue, server_scores, servers
from scorer.formula import next_score, step
from testbed.database import temporary_database

BATCH: Final = 10
MONITORS: Final = 60
SERVERS: Final = 1_000
OFTEN: Final = Intervals(interval_active=1.0)
"""Intervals short enough for random pairs, which would otherwise often exceed the rate limit of a pair."""

LEAST_RATIO: Final = 3.0
"""Minimum ratio to the row-at-a-time writer."""


def main() -> int:
    """Measure and print the figures; return 1 if the ratio is not reached."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    given = arguments.parse_args()
    with _ledger() as engine:
        many = _rate(lambda some: commit(engine, some, utc_now(), OFTEN), MOST_RESULTS // BATCH, given.seconds)
        one = _rate(lambda some: commit(engine, some, utc_now(), OFTEN), 1, given.seconds)
        rows = _rate(lambda some: _row_at_a_time(engine, some), 1, given.seconds)
    conditions = {"monitors": MONITORS, "servers": SERVERS, "batch": BATCH}
    full = {**conditions, "batches per transaction": MOST_RESULTS // BATCH}
    return report(
        Figure("ingest ledger", many, "results/s", conditions=full),
        Figure("ingest ledger, one batch in a transaction", one, "results/s", conditions=conditions),
        Figure("row-at-a-time writer", rows, "results/s", conditions=conditions),
        Figure("ingest ledger against row at a time", many / rows, "times", at_least=LEAST_RATIO, conditions=full),
    )


@contextmanager
def _ledger() -> Iterator[Engine]:
    with temporary_database() as database:
        engine = open_database(database.create("bench"))
        try:
            upgrade(engine)
            _fill(engine)
            yield engine
        finally:
            engine.dispose()


def _fill(engine: Engine) -> None:
    now = utc_now()
    with engine.begin() as connection:
        of_monitor = {"ip_version": "v4", "status": "active", "config": "{}", "created_on": now}
        connection.execute(
            sa.insert(monitors), [{"id": m, "tls_name": _name(m), **of_monitor} for m in range(1, MONITORS + 1)]
        )
        connection.execute(
            sa.insert(servers), [{"id": s, "ip": _ip(s), "created_on": now} for s in range(1, SERVERS + 1)]
        )
        SCORING.add(connection, range(1, SERVERS + 1), None)
        for m in range(1, MONITORS + 1):
            pairs = ({"server_id": s, "monitor_id": m, "status": "active"} for s in range(1, SERVERS + 1))
            connection.execute(sa.insert(server_scores), [{**pair, "created_on": now} for pair in pairs])


def _name(monitor_id: int) -> str:
    return f"b{monitor_id}.devel.mon.example"


def _ip(server_id: int) -> str:
    return f"10.0.{server_id >> 8}.{server_id & 255}"


def _submission() -> Submission:
    now = datetime.now(UTC)
    chosen = random.sample(range(1, SERVERS + 1), BATCH)
    results = [
        Result(server_id=s, ip=_ip(s), ts=now, offset=random.gauss(0, 0.001), rtt=0.02, stratum=2, leap=0)
        for s in chosen
    ]
    return Submission(
        _name(random.randint(1, MONITORS)), "v4", Batch(id=new_ulid(time.time_ns()), version="1", results=results), now
    )


def _rate(write: Callable[[Sequence[Submission]], object], batches: int, seconds: float) -> float:
    """Return the results per second of the median transaction, without the time to make the data."""
    times: list[float] = []
    while sum(times) < seconds:
        some = [_submission() for _ in range(batches)]
        began = time.perf_counter()
        write(some)
        times.append(time.perf_counter() - began)
    return batches * BATCH / median(times)


def _row_at_a_time(engine: Engine, some: Sequence[Submission]) -> None:
    """Write in the simplest way: look up the pair, log, score, make due, note the time; and the batch at the end."""
    pair, queue = server_scores.c, scoring_queue.c
    for submission in some:
        monitor_id = int(submission.name[1:].partition(".")[0])
        with engine.begin() as connection:
            for result in submission.batch.results:
                of_pair = (pair.server_id == result.server_id, pair.monitor_id == monitor_id)
                old = connection.scalar(sa.select(pair.score_raw).where(*of_pair).with_for_update()) or 0.0
                score, ts = next_score(old, step(result)), to_db(result.ts)
                row = {"server_id": result.server_id, "monitor_id": monitor_id, "ts": ts, "score": score}
                connection.execute(sa.insert(log_scores).values(**row, step=step(result).step, offset=result.offset))
                connection.execute(sa.update(server_scores).where(*of_pair).values(score_raw=score, score_ts=ts))
                due = sa.update(scoring_queue).where(queue.server_id == result.server_id)
                connection.execute(due.values(due_on=ts))
                connection.execute(sa.update(monitors).where(monitors.c.id == monitor_id).values(last_submit=ts))
            done = {"monitor_id": monitor_id, "batch": submission.batch.id, "received_on": utc_now(), "stored": BATCH}
            connection.execute(sa.insert(result_batches).values(**done))


if __name__ == "__main__":
    sys.exit(main())

"""Measure the count of an hour and the judgement of all monitors' health, on the log of a day of the whole pool.

The database's work and ours are in one process here, since the count is one transaction of the selector. The day's
other hours are counted first, as after a pause of a day, and a month of hours is added, so that the labels are judged
on full tables.
"""

import argparse
import sys
import time
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from bench.figure import Figure, median, report
from bench.selector import DEFAULT_INTERVALS, filled_pool
from runtime.db.engine import reading, transaction, utc_now
from schema.tables import log_scores, monitor_health, monitor_hours
from selector.health import store
from selector.health.count import count_next_hour, last_hour, read_facts
from selector.health.facts import HOUR
from testbed.database import temporary_database

SECONDS: Final = 10.0
"""Bound for one hour: a job every hour may take some seconds, but not delay a worker's shutdown."""


def main() -> int:
    """Measure and print the figures; return 1 if a bound is missed."""
    arguments = argparse.ArgumentParser(prog="scripts/bench health", description=__doc__)
    arguments.add_argument("--servers", type=int, default=3_000)
    given = arguments.parse_args()
    with (
        temporary_database(buffer_pool="3G", redo_log="512M") as database,
        filled_pool(database.create("health"), given.servers, DEFAULT_INTERVALS) as engine,
    ):
        return report(*_measure(engine, given.servers))


def _measure(engine: Engine, servers: int) -> list[Figure]:
    now, seconds, cpu = utc_now(), [], []
    while True:
        began, used = time.perf_counter(), time.process_time()
        counted = count_next_hour(engine, now)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        if counted is None or not counted.more:
            break
        if len(seconds) == 1:
            transaction(engine, partial(_add_month, before=counted.until - HOUR))
    end = last_hour(now) + HOUR
    with reading(engine) as connection:
        began = time.perf_counter()
        facts = read_facts(connection, store.read_judged(connection), end)
        reading_seconds = time.perf_counter() - began
        rows = connection.scalar(sa.select(sa.func.count()).select_from(log_scores))
        within = sa.and_(log_scores.c.ts >= end - timedelta(hours=1), log_scores.c.ts < end)
        of_hour = connection.scalar(sa.select(sa.func.count()).select_from(log_scores).where(within))
        hours = connection.scalar(sa.select(sa.func.count()).select_from(monitor_hours))
        labels = connection.scalar(sa.select(sa.func.count()).select_from(monitor_health))
    conditions = {"servers": servers, "log_rows": rows, "rows_of_last_hour": of_hour, "monitor_hours": hours}
    more = {"monitors": len(facts), "labels": labels, "hours": len(seconds), "longest": round(max(seconds), 2)}
    return [
        Figure("health, an hour", median(seconds), "s", at_most=SECONDS, conditions=conditions | more),
        Figure("health, own CPU time of an hour", median(cpu), "s", conditions=conditions),
        Figure("health, reading the facts of all monitors", reading_seconds, "s", conditions=conditions),
    ]


def _add_month(connection: Connection, before: datetime) -> None:
    connection.execute(sa.text(_MONTH), {"before": before})


_MONTH: Final = """
    INSERT IGNORE INTO `monitor_hours` (`hour`, `monitor_id`, `servers`, `probes`, `judged`, `lost`, `expected_lost`,
           `clock_offset`, `clock_servers`, `nearest_rtt`)
    SELECT :before - INTERVAL `h`.`seq` HOUR, `m`.`id`, 3000, 3100, 3000, 3, 2.5, 0.001, 3000, 0.02
    FROM `seq_1_to_720` AS `h` JOIN `monitors` AS `m`
"""


if __name__ == "__main__":
    sys.exit(main())

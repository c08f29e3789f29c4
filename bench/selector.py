"""Measure the time of a review, and of reviews of all servers of a pool of 5 000.

One review has 60 monitors with 160 results each in the last 24 h; it is claimed, read, decided, written and committed
in MariaDB. The rules are also measured alone. In the pool, every server is due and has 60 monitors (7 active, 5 testing
and 48 candidates), with their results of 24 h at the default intervals (160, 32 and 12 results, about 1 900 per
server).
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from bench.figure import Figure, median, report
from bench.world import World, analyze, fill
from runtime.db.engine import open_database, reading
from runtime.db.migrate import upgrade
from runtime.db.queue import REVIEWS
from runtime.db.system_settings import PoolSettings
from schema.tables import log_scores
from selector.reviews import BATCH, review_due, rule_settings
from selector.rows import parse_monitors, parse_server
from selector.rules.review import review
from selector.store import read_inputs
from selector.triggers import make_due
from testbed.database import DatabaseServer, temporary_database

MONITORS: Final = 60
ACTIVE: Final = 7
TESTING: Final = 5
ACCOUNTS: Final = 40
SLOTS: Final = 160
"""Probes of an active monitor in 24 h: one every nine minutes."""

FEW: Final = 50
"""Servers whose reviews are timed individually."""

ONE_MS: Final = 20.0
RULES_MS: Final = 1.0
ALL_SECONDS: Final = 60.0
PROMISED: Final = 5_000


EACH_SLOT: Final = {"active": 1, "testing": 1, "candidate": 1}
DEFAULT_INTERVALS: Final = {"active": 1, "testing": 5, "candidate": 13}
"""Slots between two results of a pair: 9, 45 and 120 minutes."""


def main() -> int:
    """Measure and print the figures; return 1 if a bound is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--servers", type=int, default=PROMISED, help=f"in the pool; the bound is for {PROMISED}")
    arguments.add_argument("--reviews", type=int, default=300, help="reviews timed individually in each of 3 rounds")
    given = arguments.parse_args()
    # The pool's log of a day must fit into the buffer pool, as on a database server.
    with temporary_database(buffer_pool="3G", redo_log="512M") as database:
        # Minutes apart, since the speed of a shared machine varies.
        rounds = [_round(database, "first", given.reviews)]
        with filled_pool(database.create("all"), given.servers, DEFAULT_INTERVALS) as engine:
            rounds.append(_round(database, "second", given.reviews))
            everything = _all_reviews(engine, given.servers)
        rounds.append(_round(database, "third", given.reviews))
    return report(*_single(rounds, given.reviews), *everything)


@dataclass(frozen=True, slots=True)
class Round:
    """Medians of one round, in milliseconds."""

    review: float
    rules: float


def _round(database: DatabaseServer, name: str, reviews: int) -> Round:
    with filled_pool(database.create(name), FEW, EACH_SLOT) as engine:
        return Round(median(_reviews(engine, reviews)), median(_rules(engine)))


def _single(rounds: Sequence[Round], reviews: int) -> list[Figure]:
    conditions = {"monitors": MONITORS, "rows": MONITORS * SLOTS, "reviews": reviews}

    def figure(name: str, found: Sequence[float], bound: float) -> Figure:
        in_rounds = [round(one, 2) for one in found]
        return Figure(name, median(found), "ms", at_most=bound, conditions={**conditions, "rounds": in_rounds})

    return [
        figure("selector review", [one.review for one in rounds], ONE_MS),
        figure("selector rules", [one.rules for one in rounds], RULES_MS),
    ]


def _reviews(engine: Engine, count: int) -> list[float]:
    """Return the milliseconds of single reviews. The first ones of each server change pairs, which takes longest."""
    times: list[float] = []
    while len(times) < count:
        make_due(engine, None, datetime.now(UTC))
        while len(times) < count:
            began = time.perf_counter()
            if not review_due(engine, PoolSettings(), datetime.now(UTC), 1):
                break
            times.append((time.perf_counter() - began) * 1e3)
    return times


def _rules(engine: Engine) -> list[float]:
    """Return the milliseconds of the rules alone, for every server."""
    now, settings = datetime.now(UTC), rule_settings(PoolSettings())
    with reading(engine) as connection:
        inputs = read_inputs(connection, range(1, FEW + 1), now)
    times = []
    for found in inputs.values():
        server = parse_server(found.server_id, found.ip, found.ip_version, found.account_id)
        monitors = parse_monitors(found.monitors)
        for _ in range(10):
            began = time.perf_counter()
            review(server, monitors, now, settings)
            times.append((time.perf_counter() - began) * 1e3)
    return times


def _all_reviews(engine: Engine, servers: int) -> list[Figure]:
    now = datetime.now(UTC)
    with reading(engine) as connection:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(log_scores))
        assert REVIEWS.backlog(connection, now.replace(tzinfo=None)).due == servers
    reviewed = changes = 0
    began = time.perf_counter()
    while some := review_due(engine, PoolSettings(), now, BATCH):
        reviewed += len(some)
        changes += sum(len(one.changes) for one in some)
    seconds = time.perf_counter() - began
    assert reviewed == servers, f"{reviewed} of {servers} servers were reviewed"
    conditions = {"servers": servers, "monitors": MONITORS, "rows": rows, "batch": BATCH, "changes": changes}
    # With fewer servers, the bound is proportionally lower.
    bound = ALL_SECONDS * min(1.0, servers / PROMISED)
    return [
        Figure("selector all servers", seconds, "s", at_most=bound, conditions=conditions),
        Figure("selector server of all", seconds / servers * 1e3, "ms", conditions=conditions),
    ]


@contextmanager
def filled_pool(url: URL, servers: int, every: Mapping[str, int]) -> Iterator[Engine]:
    """Fill a ledger with servers that are all due, and the log of a day with a result of each pair every ``every``
    slots."""
    began = time.perf_counter()
    engine = open_database(url)
    upgrade(engine)
    fill(engine, World(servers=servers, monitors=MONITORS, active=ACTIVE, testing=TESTING))
    with engine.begin() as connection:
        for statement in (_ACCOUNTS, _PRESENCE, _QUEUE):
            connection.execute(sa.text(statement), {"accounts": ACCOUNTS})
    # Rows are in the order of time, as in production. The index that no review reads is created afterwards, which is
    # faster.
    _execute(engine, "DROP INDEX `log_scores_ts` ON `log_scores`")
    for slot in range(SLOTS):
        with engine.begin() as connection:
            connection.execute(sa.text("SET foreign_key_checks = 0, unique_checks = 0"))
            connection.execute(sa.text(_SLOT), {**every, "slot": slot, "ago": (SLOTS - slot) * 540 - 500})
            connection.execute(sa.text("SET foreign_key_checks = 1, unique_checks = 1"))
    _execute(engine, "CREATE INDEX `log_scores_ts` ON `log_scores` (`ts`)")
    analyze(engine)
    sys.stderr.write(f"{servers} servers made in {time.perf_counter() - began:.0f} s\n")
    try:
        yield engine
    finally:
        engine.dispose()


def _execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


_ACCOUNTS: Final = "UPDATE `monitors` SET `account_id` = 1 + `id` MOD :accounts"
_PRESENCE: Final = """
    INSERT INTO `monitor_presence` (`tls_name`, `online`, `since`, `seen`, `status`)
    SELECT `tls_name`, 1, UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL 1 HOUR, '{}' FROM `monitors`
"""
_QUEUE: Final = """
    INSERT INTO `servers_monitor_review` (`server_id`, `next_review`) SELECT `id`, UTC_TIMESTAMP() FROM `servers`
"""

# One result in 20 is bad, and every pair has a different rtt of 10 to 110 ms.
_SLOT: Final = """
    INSERT INTO `log_scores` (`monitor_id`, `server_id`, `ts`, `score`, `step`, `offset`, `rtt`, `attributes`)
    SELECT `monitor_id`, `server_id`, UTC_TIMESTAMP() - INTERVAL :ago SECOND, 19,
           IF((`monitor_id` * 31 + `server_id` * 17 + :slot) MOD 20 = 0, -2, 1), 0.001,
           10000 + (`monitor_id` * 7919 + `server_id` * 104729) MOD 100000 + :slot, '{"leap": 0, "stratum": 2}'
    FROM `server_scores`
    WHERE (`monitor_id` + :slot) MOD
          CASE `status` WHEN 'active' THEN :active WHEN 'testing' THEN :testing ELSE :candidate END = 0
    ORDER BY `id`
"""


if __name__ == "__main__":
    sys.exit(main())

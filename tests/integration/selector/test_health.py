"""Test the health of monitors on real databases: an hour of the log is counted once, and labels follow from it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import reading
from runtime.db.monitor_health import read_labels
from schema.messages import ProtocolState, Status, encode
from schema.tables import health_progress, log_scores, monitor_health, monitor_hours, monitor_presence, monitors
from selector.health import count, store
from selector.health.count import Counted, count_labels, count_next_hour
from testbed.fixtures.selector import unique
from testbed.fixtures.world import add_log_score, add_monitor, add_scorer, add_server

NOW = datetime(2026, 3, 1, 12, 15)
HOUR = timedelta(hours=1)
GOOD = {"step": 1.0, "offset": 0.001, "rtt": 20_000, "score": 20.0}
LAST = datetime(2026, 3, 1, 11)
"""The last hour that is over."""


def fill(
    connection: Connection, servers: list[int], monitor: int, hours: int = 24, *, each: int = 2, **values: Any
) -> None:
    """Add ``each`` results per server and hour for the last ``hours``."""
    rows = [
        {
            "server_id": server,
            "monitor_id": monitor,
            "ts": LAST - HOUR * back + timedelta(minutes=15 * n),
            **GOOD,
            **values,
        }
        for back in range(hours)
        for server in servers
        for n in range(each)
    ]
    connection.execute(sa.insert(log_scores), rows)


def count_all(engine: Engine, now: datetime = NOW) -> Counted:
    """Count every hour that is due, and return the last count."""
    last = None
    while (counted := count_next_hour(engine, now)) is not None:
        last = counted
        if not counted.more:
            break
    assert last is not None
    return last


def labels(engine: Engine) -> dict[int, set[str]]:
    with reading(engine) as connection:
        return {number: {one.label.value for one in held} for number, held in read_labels(connection).items()}


def hours_of(engine: Engine, monitor: int) -> list[Any]:
    h = monitor_hours.c
    with reading(engine) as connection:
        return list(connection.execute(sa.select(monitor_hours).where(h.monitor_id == monitor).order_by(h.hour)))


LOST = {"step": -5.0, "offset": None, "rtt": 0}


Pool = tuple[Engine, list[int], list[int]]


@pytest.fixture
def pool(sqlite_engine: Engine) -> Pool:
    """Fill a ledger of SQLite, see :func:`make_pool`."""
    return make_pool(sqlite_engine)


def make_pool(engine: Engine) -> Pool:
    """Add twelve servers, which five monitors have measured for a day and an hour."""
    with engine.begin() as connection:
        servers = [add_server(connection) for _ in range(12)]
        found = [add_monitor(connection, unique("m")) for _ in range(5)]
        for monitor in found:
            fill(connection, servers, monitor, 25)
    return engine, servers, found


def test_good_monitors_are_stable_with_good_clocks(engine: Engine) -> None:
    _, _, found = make_pool(engine)
    counted = count_all(engine)
    assert counted.until == LAST + HOUR
    assert labels(engine) == {monitor: {"stable-1d", "clock-good"} for monitor in found}
    [*_, last] = hours_of(engine, found[0])
    assert (last.hour, last.servers, last.probes, last.judged, last.lost) == (LAST, 12, 24, 24, 0)
    assert last.clock_offset == pytest.approx(0.0)
    assert last.nearest_rtt == pytest.approx(0.02)
    assert count_labels(engine)["clock-good"] == 5 and count_labels(engine)["clock-off"] == 0


def test_loss_is_judged_against_the_others_and_dead_servers_against_nobody(engine: Engine) -> None:
    _, servers, found = make_pool(engine)
    log, [first, second, *_] = log_scores.c, found
    with engine.begin() as connection:
        dead = [add_server(connection) for _ in range(4)]
        for monitor in found:
            fill(connection, dead, monitor, **LOST)
        lossy = sa.update(log_scores).where(log.monitor_id == first, log.server_id == servers[0]).values(LOST)
        connection.execute(lossy)
    count_all(engine)
    assert labels(engine)[first] == {"stable-1d", "clock-good", "loses-packets"}
    assert labels(engine)[second] == {"stable-1d", "clock-good"}
    with reading(engine) as connection:
        [held] = [one for one in read_labels(connection)[first] if one.label.is_trouble]
    assert held.reason == "lost 8.3 % of 576 probes to servers that others reach, 24 h; others lost 0.0 %"
    assert held.figures == {"lost": 48, "probes": 576, "share": 0.08333, "share_of_others": 0.0}
    assert held.since == (LAST + HOUR).replace(tzinfo=UTC)


def test_wrong_clock_is_told_from_wrong_servers(pool: Pool) -> None:
    engine, servers, found = pool
    log = log_scores.c
    with engine.begin() as connection:
        connection.execute(sa.update(log_scores).where(log.server_id.in_(servers[:5])).values(offset=3.0))
        ahead = sa.update(log_scores).where(log.monitor_id == found[0], log.offset < 1)
        connection.execute(ahead.values(offset=-0.049))
        both = sa.update(log_scores).where(log.monitor_id == found[0], log.offset > 1)
        connection.execute(both.values(offset=2.95))
    count_all(engine)
    assert labels(engine) == {one: {"stable-1d", "clock-off" if one == found[0] else "clock-good"} for one in found}
    with reading(engine) as connection:
        [held, _] = read_labels(connection)[found[0]]
    assert held.reason == "its clock is 50.0 ms ahead of those of other monitors at 12 servers, 6 h"


def test_label_keeps_its_time_until_it_ends(engine: Engine) -> None:
    _, servers, found = make_pool(engine)
    count_all(engine)
    later = add_hours(engine, servers, found[1:], 2)
    first = count_next_hour(engine, later)
    assert first is not None and first.more
    second = count_next_hour(engine, later)
    assert second is not None
    gone = {(change.label, change.reason) for change in second.changes}
    assert gone == {("stable-1d", None)}, "two hours without results"
    assert labels(engine)[found[0]] == {"clock-good"}
    since = sa.select(monitor_health.c.since).where(monitor_health.c.monitor_id == found[1])
    with reading(engine) as connection:
        assert set(connection.scalars(since)) == {LAST + HOUR}


def add_hours(engine: Engine, servers: list[int], of: list[int], hours: int) -> datetime:
    """Add results of the next hours, and return the time at which they are over."""
    rows = [
        {
            "server_id": server,
            "monitor_id": monitor,
            "ts": LAST + HOUR * (n + 1) + timedelta(minutes=20 * part),
            **GOOD,
        }
        for n in range(hours)
        for server in servers
        for monitor in of
        for part in range(3)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(log_scores), rows)
    return NOW + HOUR * hours


def test_hours_without_results_of_most_monitors_count_for_nobody(pool: Pool) -> None:
    engine, _, found = pool
    ts = log_scores.c.ts
    with engine.begin() as connection:
        outage = sa.delete(log_scores).where(ts >= LAST - 3 * HOUR, ts < LAST)
        connection.execute(outage.where(log_scores.c.monitor_id != found[0]))
    count_all(engine)
    assert labels(engine) == {monitor: {"stable-1d", "clock-good"} for monitor in found}


def test_labels_of_monitors_that_do_not_probe_any_more_end(pool: Pool) -> None:
    engine, servers, found = pool
    count_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == found[0]).values(status="deleted"))
        connection.execute(sa.update(monitors).where(monitors.c.id == found[1]).values(status="paused"))
    count_all(engine, add_hours(engine, servers, found[2:], 1))
    assert labels(engine).keys() == set(found[2:])


def test_protocol_that_fails_while_the_other_one_works_is_flaky(pool: Pool) -> None:
    engine, servers, found = pool
    with engine.begin() as connection:
        name = connection.scalar(sa.select(monitors.c.tls_name).where(monitors.c.id == found[0]))
        assert name is not None
        other = add_monitor(connection, name, "v6")
        fill(connection, servers, other, 20)
        recent = sa.delete(log_scores).where(log_scores.c.monitor_id == other, log_scores.c.ts >= LAST - 4 * HOUR)
        connection.execute(recent)
    count_all(engine)
    assert "v6-flaky" in labels(engine)[other]
    assert labels(engine)[found[0]] == {"stable-1d", "clock-good"}


@pytest.mark.parametrize(("online", "expected"), [(True, {"not-probing"}), (False, set())])
def test_agent_says_why_it_does_not_probe(pool: Pool, online: bool, expected: set[str]) -> None:
    engine, _, _ = pool
    name = unique("idle")
    state = ProtocolState(
        status="active", probing=False, assignments=1, assignments_hash="", why_not="the clock is 3 s off"
    )
    text = encode(Status(online=online, protocols={"v4": state})).decode()
    with engine.begin() as connection:
        idle = add_monitor(connection, name)
        values = {"online": online, "since": NOW, "seen": NOW, "status": text}
        connection.execute(sa.insert(monitor_presence).values(tls_name=name, **values))
        broken = add_monitor(connection, unique("odd"))
        odd = {"tls_name": sa.select(monitors.c.tls_name).where(monitors.c.id == broken).scalar_subquery()}
        connection.execute(sa.insert(monitor_presence).values(**odd, **values | {"status": "{nonsense"}))
    count_all(engine)
    assert labels(engine).get(idle, set()) == expected
    assert broken not in labels(engine), "an invalid status stops nothing"


def test_scorers_have_no_health(pool: Pool) -> None:
    engine, servers, _ = pool
    with engine.begin() as connection:
        scorer = add_scorer(connection)
        fill(connection, servers, scorer)
    count_all(engine)
    assert scorer not in labels(engine) and hours_of(engine, scorer) == []


# ---- the count -------------------------------------------------------------------------------------------------------


def test_empty_ledger_is_counted_at_once(engine: Engine) -> None:
    with engine.begin() as connection:
        add_monitor(connection, unique("m"))
    counted = count_next_hour(engine, NOW)
    assert counted is not None and not counted.more
    assert labels(engine) == {}
    assert count_next_hour(engine, NOW) is None


def test_hour_is_counted_only_once(pool: Pool) -> None:
    engine, servers, found = pool
    count_all(engine)
    before = hours_of(engine, found[0])
    assert len(before) == 24, "a day at first"
    with engine.begin() as connection:
        add_log_score(connection, servers[0], found[0], LAST + timedelta(minutes=59))
    assert count_next_hour(engine, NOW + timedelta(minutes=54)) is None
    assert hours_of(engine, found[0]) == before, "a late result does not count"


def test_repeated_count_of_an_hour_changes_nothing(pool: Pool) -> None:
    engine, _, found = pool
    count_all(engine)
    before, known = hours_of(engine, found[0]), labels(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(health_progress).values(counted_until=LAST))
    counted = count_next_hour(engine, NOW)
    assert counted is not None and counted.changes == ()
    assert (hours_of(engine, found[0]), labels(engine)) == (before, known)


def test_only_one_of_several_selectors_counts(server_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with server_engine.begin() as connection:
        monitor, server = add_monitor(connection, unique("m")), add_server(connection)
        fill(connection, [server], monitor, 1)
    counting, go_on = threading.Event(), threading.Event()
    original = store.read_pairs

    def slowly(connection: Connection, hour: datetime) -> Iterator[Any]:
        counting.set()
        assert go_on.wait(30)
        return original(connection, hour)

    monkeypatch.setattr(count.store, "read_pairs", slowly)
    outcomes: list[Counted | None] = []
    first = threading.Thread(target=lambda: outcomes.append(count_next_hour(server_engine, NOW)))
    first.start()
    try:
        assert counting.wait(30)
        assert count_next_hour(server_engine, NOW) is None, "the other one has claimed it"
    finally:
        go_on.set()
        first.join(30)
    assert outcomes[0] is not None


def test_count_that_is_killed_is_repeated_in_full(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _, found = pool

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(count.store, "write_progress", killed)
        count_next_hour(engine, NOW)
    assert hours_of(engine, found[0]) == []
    count_all(engine)
    assert len(hours_of(engine, found[0])) == 24


def test_log_is_read_by_its_index(server_engine: Engine) -> None:
    with server_engine.begin() as connection:
        servers, found = (
            [add_server(connection) for _ in range(4)],
            [add_monitor(connection, unique("m")) for _ in "ab"],
        )
        for monitor in found:
            fill(connection, servers, monitor, 24)
    with plans(server_engine) as keys:
        assert count_next_hour(server_engine, NOW) is not None
    assert keys == ["log_scores_ts", "log_scores_review"]


@contextmanager
def plans(engine: Engine) -> Iterator[list[str]]:
    """Collect the indexes by which the log is read."""
    keys: list[str] = []

    def explain(connection: Connection, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        if "log_scores" in statement and not statement.startswith("EXPLAIN"):
            how = "EXPLAIN FORMAT=TRADITIONAL " if connection.dialect.name == "mysql" else "EXPLAIN "
            plan = connection.exec_driver_sql(how + statement, parameters)  # type: ignore[arg-type]
            keys.extend(row.key for row in plan if row.table == "log_scores")

    sa.event.listen(engine, "before_cursor_execute", explain)
    try:
        yield keys
    finally:
        sa.event.remove(engine, "before_cursor_execute", explain)

"""Test the data that a review reads from the ledger, on every database."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from schema.tables import accounts, assignment_changes, monitor_presence, monitors, server_scores, servers
from selector.rows import RawMonitor
from selector.store import WINDOW, ReviewInput, read_inputs
from testbed.fixtures.selector import add_results, set_presence, unique
from testbed.fixtures.world import add_account, add_log_score, add_monitor, add_pair, add_scorer, add_server

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def read(connection: Connection, server_id: int) -> ReviewInput:
    return read_inputs(connection, [server_id], NOW)[server_id]


def only(connection: Connection, server_id: int) -> RawMonitor:
    [monitor] = read(connection, server_id).monitors
    return monitor


def test_results_of_24_hours_are_aggregated_per_pair(engine: Engine) -> None:
    with engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, unique("m"))
        add_pair(connection, server, monitor, "testing")
        add_log_score(connection, server, monitor, NOW - SECOND, step=1.0, rtt=10_000)
        add_log_score(connection, server, monitor, NOW - MINUTE, step=0.5, rtt=30_000)
        add_log_score(connection, server, monitor, NOW - WINDOW + SECOND, step=-5.0, rtt=None)
        add_log_score(connection, server, monitor, NOW - WINDOW + 2 * SECOND, step=-5.0, rtt=0)
        add_log_score(connection, server, monitor, NOW - WINDOW, step=-100.0, rtt=8_000_000)
        found = only(connection, server)
    assert found.count == 4, "the result exactly 24 h old is too old"
    assert found.avg_step == pytest.approx(-8.5 / 4)
    assert found.avg_rtt_ms == pytest.approx(20.0), "a result without rtt, be it 0 or NULL, has no part in the average"


@pytest.mark.parametrize("none", [None, 0])
def test_timeouts_with_rtt_null_or_0_do_not_affect_the_average_rtt(engine: Engine, none: int | None) -> None:
    with engine.begin() as connection:
        server, monitor, silent = add_server(connection), *(add_monitor(connection, unique("m")) for _ in range(2))
        for one in (monitor, silent):
            add_pair(connection, server, one, "active")
            add_log_score(connection, server, one, NOW - MINUTE, step=-5.0, rtt=none)
        add_log_score(connection, server, monitor, NOW - SECOND, step=1.0, rtt=30_000)
        found = {one.id: one for one in read(connection, server).monitors}
    assert (found[monitor].count, found[monitor].avg_rtt_ms) == (2, pytest.approx(30.0))
    assert (found[silent].count, found[silent].avg_step, found[silent].avg_rtt_ms) == (1, -5.0, None)


def test_last_move_between_candidate_and_testing_is_read_from_the_history(engine: Engine) -> None:
    moves = {
        ("candidate", "testing"): (NOW - 4 * WINDOW, NOW - 2 * WINDOW),
        ("testing", "candidate"): (NOW - 3 * WINDOW, NOW - WINDOW),
        ("active", "testing"): (NOW - MINUTE,),
        ("testing", "active"): (NOW - MINUTE,),
        ("active", "candidate"): (NOW - MINUTE,),
        (None, "candidate"): (NOW - MINUTE,),
    }
    with engine.begin() as connection:
        server, other = add_server(connection), add_server(connection)
        monitor, second = add_monitor(connection, unique("m")), add_monitor(connection, unique("n"))
        add_pair(connection, server, monitor, "testing")
        add_pair(connection, server, second, "testing")
        add_pair(connection, other, monitor, "testing")
        for (before, after), times in moves.items():
            for at in times:
                add_move(connection, server, monitor, before, after, at)
        add_move(connection, other, second, "candidate", "testing", NOW)
        found = {one.id: one.last_move for one in read(connection, server).monitors}
        elsewhere = only(connection, other).last_move
    assert found == {monitor: (NOW - WINDOW).replace(tzinfo=None), second: None}
    assert elsewhere is None


def add_move(connection: Connection, server: int, monitor: int, before: str | None, after: str, at: datetime) -> None:
    connection.execute(
        sa.insert(assignment_changes).values(
            server_id=server,
            monitor_id=monitor,
            before_status=before,
            after_status=after,
            reason="a test",
            changed_on=at.replace(tzinfo=None),
        )
    )


def test_pair_without_results_is_included(engine: Engine) -> None:
    with engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, unique("m"))
        add_pair(connection, server, monitor, "candidate")
        found = only(connection, server)
    assert (found.count, found.avg_step, found.avg_rtt_ms, found.pair_status) == (0, None, None, "candidate")


def test_pairs_and_results_of_several_servers_are_not_mixed(engine: Engine) -> None:
    with engine.begin() as connection:
        one, other, bare = add_server(connection), add_server(connection), add_server(connection)
        monitor, second = add_monitor(connection, unique("m")), add_monitor(connection, unique("n"))
        for server, m, count in ((one, monitor, 2), (other, monitor, 5), (other, second, 1)):
            add_pair(connection, server, m)
            add_results(connection, server, m, count, now=NOW)
        found = read_inputs(connection, [one, other, bare, bare + 1], NOW)
    counts = {server: {m.id: m.count for m in input.monitors} for server, input in found.items()}
    assert counts == {one: {monitor: 2}, other: {monitor: 5, second: 1}, bare: {}}


def test_scorers_and_pseudo_monitors_are_excluded(engine: Engine) -> None:
    with engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, unique("m"))
        for m in (monitor, add_scorer(connection), add_monitor(connection, "settings-v4.system")):
            add_pair(connection, server, m)
        assert only(connection, server).id == monitor


def test_rows_are_read_unchanged(engine: Engine) -> None:
    name = unique("m")
    with engine.begin() as connection:
        account = add_account(connection, flags={"monitors_per_server_limit": 1})
        server = add_server(connection, "192.0.2.7", account_id=account)
        monitor = add_monitor(connection, name, ip="198.51.100.3", status="testing", account_id=account)
        pair = add_pair(connection, server, monitor, "paused")
        values = {
            "constraint_violation_type": "limit",
            "constraint_violation_since": datetime(2026, 1, 1),
            "last_constraint_check": datetime(2026, 1, 2),
            "pause_reason": "constraint",
        }
        connection.execute(sa.update(server_scores).where(server_scores.c.id == pair).values(values))
        input = read(connection, server)
    assert (input.ip, input.ip_version, input.account_id, input.deletion_on) == ("192.0.2.7", "v4", account, None)
    assert input.monitors == [
        RawMonitor(
            id=monitor,
            name=name,
            ip="198.51.100.3",
            ip_version="v4",
            account_id=account,
            account_flags='{"monitors_per_server_limit": 1}',
            global_status="testing",
            pair_status="paused",
            gone=True,
            violation_type="limit",
            violation_since=datetime(2026, 1, 1),
            last_constraint_check=datetime(2026, 1, 2),
            pause_reason="constraint",
        )
    ]


def test_values_that_the_column_types_do_not_allow_are_read(sqlite_engine: Engine) -> None:
    with sqlite_engine.begin() as connection:
        account = add_account(connection)
        server = add_server(connection)
        monitor = add_monitor(connection, unique("m"), account_id=account)
        add_pair(connection, server, monitor)
        for statement in (
            sa.update(accounts).values(flags=sa.literal_column("'{nonsense'")),
            sa.update(monitors).values(status=sa.literal_column("'asleep'"), ip_version=sa.literal_column("'v5'")),
            sa.update(server_scores).values(status=sa.literal_column("'odd'")),
            sa.update(servers).values(ip_version=sa.literal_column("'v9'")),
        ):
            connection.execute(statement)
        input = read(connection, server)
    [found] = input.monitors
    assert input.ip_version == "v9"
    assert (found.account_flags, found.global_status, found.ip_version) == ("{nonsense", "asleep", "v5")
    assert found.pair_status == "odd"


@pytest.mark.parametrize(
    ("online", "since", "seen", "last_seen", "gone"),
    [
        (True, 3000, 14.99, None, False),
        (True, 3000, 15, None, True),
        (False, 14.99, 14.99, None, False),
        (False, 15, 15, None, True),
        (False, 15, 1, None, True),
        (None, None, None, 14.99, False),
        (None, None, None, 15, True),
        (None, None, None, None, True),
        (True, 3000, 1, 3000, False),
    ],
)
def test_monitor_is_gone_after_15_minutes_offline_or_silent(
    engine: Engine, online: bool | None, since: float, seen: float, last_seen: float | None, gone: bool
) -> None:
    name = unique("m")
    with engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, name)
        add_pair(connection, server, monitor)
        if online is not None:
            set_presence(connection, name, online=online, since=NOW - since * MINUTE, seen=NOW - seen * MINUTE)
        if last_seen is not None:
            at = (NOW - last_seen * MINUTE).replace(tzinfo=None)
            connection.execute(sa.update(monitors).where(monitors.c.id == monitor).values(last_seen=at))
        assert only(connection, server).gone is gone


def test_server_is_deleted_from_its_deletion_day_on(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        for days, deleted in ((-1, True), (0, True), (1, False)):
            day = NOW.date() + timedelta(days=days)
            connection.execute(sa.update(servers).values(deletion_on=day))
            assert read(connection, server).deleted(NOW) is deleted


def test_zero_deletion_date_means_deleted(server_engine: Engine) -> None:
    """Old tables may contain 0000-00-00, which is earlier than any day; it must not stop reviews of other servers."""
    with server_engine.begin() as connection:
        server, other = add_server(connection), add_server(connection, "192.0.2.2")
        strict = connection.scalar(sa.text("SELECT @@SESSION.sql_mode"))
        connection.execute(sa.text("SET SESSION sql_mode = ''"))  # the default of old servers
        none = sa.text("UPDATE `servers` SET `deletion_on` = '0000-00-00' WHERE `id` = :id")
        connection.execute(none, {"id": server})
        connection.execute(sa.text("SET SESSION sql_mode = :mode"), {"mode": strict})
        inputs = read_inputs(connection, [server, other], NOW)
        assert (inputs[server].deleted(NOW), inputs[other].deleted(NOW)) == (True, False)
        [day] = connection.scalars(sa.select(servers.c.deletion_on).where(servers.c.deletion_on <= NOW.date()))
        assert day <= NOW.date()


def test_results_are_read_from_the_covering_index(server_engine: Engine) -> None:
    with server_engine.begin() as connection:
        server = add_server(connection)
        for _ in range(10):
            monitor = add_monitor(connection, unique("m"))
            add_pair(connection, server, monitor)
            add_results(connection, server, monitor, 20, now=NOW)
    plans: list[str] = []

    def explain(connection: Connection, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        if "log_scores" in statement and not statement.startswith("EXPLAIN"):
            how = "EXPLAIN FORMAT=TRADITIONAL " if connection.dialect.name == "mysql" else "EXPLAIN "
            plan = connection.exec_driver_sql(how + statement, parameters)  # type: ignore[arg-type]
            plans.extend(f"{row.key} {row.Extra}" for row in plan if row.table == "log_scores")

    sa.event.listen(server_engine, "before_cursor_execute", explain)
    try:
        with server_engine.connect() as connection:
            read_inputs(connection, [server, server + 1], NOW)
    finally:
        sa.event.remove(server_engine, "before_cursor_execute", explain)
    [plan] = plans
    assert plan.startswith("log_scores_review")
    assert "Using index" in plan


def test_presence_applies_to_both_protocols_of_a_monitor(engine: Engine) -> None:
    name = unique("m")
    with engine.begin() as connection:
        set_presence(connection, name, seen=NOW)
        four, six = add_server(connection), add_server(connection, "2001:db8::7")
        add_pair(connection, four, add_monitor(connection, name, "v4"))
        add_pair(connection, six, add_monitor(connection, name, "v6"))
        assert not only(connection, four).gone
        assert not only(connection, six).gone
        connection.execute(sa.update(monitor_presence).values(online=False, since=datetime(2026, 1, 1)))
        assert only(connection, six).gone

"""Test alerts in the ledger, on each database: evaluation, outbox, messages, and several notifiers at once."""

from dataclasses import replace
from datetime import datetime, timedelta
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.api_keys import Peppers, derive_pepper
from notifier import outbox
from notifier.addresses import Address
from notifier.delivery import compose_due
from notifier.evaluation import Evaluated, Terms, evaluate_ledger
from notifier.expected import results_due_within
from notifier.health import CURRENT_FOR
from notifier.outbox import OutMessage
from notifier.rules import KINDS, SERVER_LOW
from notifier.store import begin_round
from notifier.texts import Links
from ops.alerts import add_channel, channel_plan, list_alerts, list_channels, remove_channel
from ops.errors import OperatorError, UsageError
from runtime.db.engine import transaction
from runtime.db.system_settings import Intervals
from schema.messages import PairStatus, ProtocolState, Status, encode
from schema.tables import (
    accounts,
    alert_changes,
    alert_channels,
    alert_messages,
    alerts,
    assignment_changes,
    monitor_presence,
    monitors,
    result_batches,
    server_alerts,
    servers,
)
from selector.health import store as health_store
from selector.health.store import LabelRow
from testbed.fixtures.world import add_account, add_monitor, add_pair, add_server, monitor_name

NOW = datetime(2026, 1, 9, 12, 0, 0)
MINUTE = timedelta(minutes=1)
LEASE = timedelta(minutes=4)
LINKS = Links("https://pool.example/scores/{ip}", "https://api.pool.example")
TERMS = Terms(LINKS, timedelta(minutes=15), Intervals(), settled=True)
PEPPERS = Peppers(derive_pepper("p" * 48), ())


def evaluate(engine: Engine, now: datetime, terms: Terms = TERMS) -> Evaluated | None:
    return transaction(engine, lambda connection: evaluate_ledger(connection, now, terms))


def changes(engine: Engine, now: datetime) -> list[tuple[str, bool]]:
    found = evaluate(engine, now)
    assert found is not None
    return [(change.key.kind, change.raised) for change in found.evaluation.changes]


def over(engine: Engine, begin: datetime, minutes: int) -> list[tuple[int, str, bool]]:
    """Evaluate every five minutes; return the changes with their minutes."""
    return [(n, *change) for n in range(0, minutes, 5) for change in changes(engine, begin + n * MINUTE)]


def a_channel(engine: Engine, account_id: int | None, *, about: tuple[str, ...] = (), digest: int = 0) -> int:
    def work(connection: Connection) -> int:
        address = Address("mail", "anna@example.org")
        plan = channel_plan(account_id=account_id, address=address, about=about, digest=digest)
        add_channel(connection, plan, PEPPERS, NOW)
        return int(connection.scalar(sa.select(sa.func.max(alert_channels.c.id))) or 0)

    return transaction(engine, work)


def a_server(engine: Engine, account_id: int | None, score: float) -> int:
    def work(connection: Connection) -> int:
        server = add_server(connection, account_id=account_id, score=score)
        connection.execute(sa.update(servers).values(score_ts=NOW))
        return server

    return transaction(engine, work)


def set_score(engine: Engine, server: int, score: float) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(servers).where(servers.c.id == server).values(score_raw=score))


def an_account(engine: Engine) -> int:
    with engine.begin() as connection:
        return add_account(connection)


def messages(engine: Engine, now: datetime) -> list[OutMessage]:
    """Compose all messages that are due, and claim them."""
    transaction(engine, lambda connection: compose_due(connection, "test", now))
    found = []
    while (message := transaction(engine, lambda c: outbox.claim_message(c, now, LEASE))) is not None:
        found.append(message)
    return found


def deliver(engine: Engine, now: datetime) -> list[str]:
    """Deliver all messages that are due; return their titles."""
    found = messages(engine, now)
    for message in found:
        transaction(engine, lambda c, message=message: outbox.record_sent(c, message, now))  # type: ignore[misc]
    return [message.title for message in found]


def rows(engine: Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_a_server_that_falls_and_recovers_is_told_once_each(engine: Engine) -> None:
    owner, other = an_account(engine), an_account(engine)
    a_channel(engine, owner)
    a_channel(engine, other)
    a_channel(engine, None)
    server = a_server(engine, owner, 20.0)
    assert over(engine, NOW, 60) == []
    set_score(engine, server, 3.0)
    begin = NOW + timedelta(hours=1)
    assert over(engine, begin, 120) == [(10, SERVER_LOW, True)]
    assert len(deliver(engine, begin)) == 1
    assert deliver(engine, begin) == []
    set_score(engine, server, 20.0)
    begin = NOW + timedelta(hours=4)
    assert over(engine, begin, 120) == [(30, SERVER_LOW, False)]
    [title] = deliver(engine, begin)
    assert title.endswith("is handed out again")
    assert {rows(engine, table) for table in (alerts, alert_changes, alert_messages)} == {0}


def test_the_pools_table_says_what_owners_were_told(engine: Engine) -> None:
    owner = an_account(engine)
    told = a_server(engine, owner, 3.0)
    a_server(engine, None, 3.0)  # which nobody is told about
    a_channel(engine, owner)
    over(engine, NOW, 15)
    first = NOW + 10 * MINUTE
    with engine.connect() as connection:
        assert connection.execute(sa.select(server_alerts)).all() == [(told, 3.0, first, first)]
    set_score(engine, told, -20.0)
    over(engine, NOW + timedelta(hours=1), 15)
    with engine.connect() as connection:
        later = NOW + timedelta(hours=1, minutes=10)
        assert connection.execute(sa.select(server_alerts)).all() == [(told, -20.0, first, later)]


def test_monitors_and_results(engine: Engine) -> None:
    owner, name = an_account(engine), monitor_name("nlams1")
    with engine.begin() as connection:
        for ipv in ("v4", "v6"):
            add_monitor(connection, name, ipv, account_id=owner)  # type: ignore[arg-type]
        add_monitor(connection, monitor_name("paused"), status="paused", account_id=owner)
        state = ProtocolState(
            status="active", probing=False, assignments=3, assignments_hash="", why_not="local clock check failed at 3"
        )
        said = encode(Status(online=True, protocols={"v4": state})).decode()
        connection.execute(
            sa.insert(monitor_presence).values(tls_name=name, online=True, since=NOW, seen=NOW, status=said)
        )
        connection.execute(sa.insert(result_batches).values(monitor_id=1, batch="0" * 26, received_on=NOW, stored=1))
    a_channel(engine, owner)
    a_channel(engine, None)
    assert over(engine, NOW, 60) == [
        (15, "monitor-offline", True),
        (15, "no-results", True),
    ]
    titles = sorted(deliver(engine, NOW + timedelta(hours=1)))
    assert titles == [f"[NTP Pool, test] Monitor {name} is offline", "[NTP Pool, test] No results are stored"]
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).values(status="paused"))
    assert changes(engine, NOW + timedelta(hours=2)) == [("monitor-offline", False)]
    assert deliver(engine, NOW + timedelta(hours=2)) == [f"[NTP Pool, test] No longer watched: {name}"]


def measured(engine: Engine, name: str, status: PairStatus, since: datetime) -> None:
    """Add a monitor that has been online, and has had one server in this status, since then."""
    with engine.begin() as connection:
        monitor, server = add_monitor(connection, name), add_server(connection, score=15.0)
        add_pair(connection, server, monitor, status)
        online = {"tls_name": name, "online": True, "since": since, "seen": NOW + timedelta(days=1), "status": ""}
        connection.execute(sa.insert(monitor_presence).values(online))
        changed = {"before_status": None, "after_status": status, "reason": "made", "changed_on": since}
        connection.execute(sa.insert(assignment_changes).values(server_id=server, monitor_id=monitor, **changed))


def within(engine: Engine, now: datetime) -> float | None:
    """Return the minutes within which a result is due."""
    with engine.connect() as connection:
        found = results_due_within(connection, now, 15 * MINUTE, Intervals())
    return None if found is None else found / MINUTE


def test_results_are_due_as_often_as_the_pool_measures(engine: Engine) -> None:
    assert within(engine, NOW) == 15, "nothing is measured"
    measured(engine, monitor_name("slow"), "candidate", NOW)
    assert within(engine, NOW + 179 * MINUTE) is None, "too new to tell"
    assert within(engine, NOW + 180 * MINUTE) == 180
    measured(engine, monitor_name("new"), "testing", NOW)
    assert within(engine, NOW + 67 * MINUTE) is None
    assert within(engine, NOW + 68 * MINUTE) == 67.5
    measured(engine, monitor_name("fast"), "active", NOW + 180 * MINUTE)
    assert within(engine, NOW + 190 * MINUTE) == 67.5
    assert within(engine, NOW + 195 * MINUTE) == 15
    with engine.begin() as connection:
        connection.execute(sa.update(monitor_presence).values(online=False))
    assert within(engine, NOW + 195 * MINUTE) == 15, "no agent is online, so the setting applies"


def test_a_pool_that_is_measured_every_45_minutes_raises_no_false_alarm(engine: Engine) -> None:
    measured(engine, monitor_name("slow"), "testing", NOW - timedelta(days=1))
    with engine.begin() as connection:
        connection.execute(sa.insert(result_batches).values(monitor_id=1, batch="0" * 26, received_on=NOW, stored=1))
    assert over(engine, NOW, 65) == []
    assert over(engine, NOW + 65 * MINUTE, 60) == [(5, "no-results", True)]
    back = NOW + timedelta(hours=3)
    with engine.begin() as connection:
        connection.execute(sa.update(monitor_presence).values(since=back))
        connection.execute(sa.insert(result_batches).values(monitor_id=1, batch="1" * 26, received_on=back, stored=1))
    assert over(engine, back, 30) == [(5, "no-results", False)], "its agent has just come back"


def test_labels_of_the_selector_raise_and_clear_an_alert(engine: Engine) -> None:
    owner, name = an_account(engine), monitor_name("nlams1")
    with engine.begin() as connection:
        monitor = add_monitor(connection, name, "v6", account_id=owner)
        said = encode(Status(online=True)).decode()
        online = {"tls_name": name, "online": True, "since": NOW, "seen": NOW + timedelta(days=1), "status": said}
        connection.execute(sa.insert(monitor_presence).values(online))
    transaction(engine, health_store.begin_progress)
    judged(engine, NOW, LabelRow(monitor, "loses-packets", NOW, "lost 7.1 % of 672 probes", "{}"))
    a_channel(engine, owner)
    assert over(engine, NOW, 60) == [(30, "monitor-unhealthy", True)]
    [message] = messages(engine, NOW + timedelta(hours=1))
    assert message.title == f"[NTP Pool, test] Monitor {name} is unhealthy"
    assert "Now: IPv6: lost 7.1 % of 672 probes.\nSince: 2026-01-09 12:00 UTC." in message.body
    transaction(engine, lambda c: outbox.record_sent(c, message, NOW))
    old = NOW + CURRENT_FOR
    assert over(engine, old, 60) == [], "the selector does not judge"
    judged(engine, old, LabelRow(monitor, "far-from-all", NOW, "the rtt is 200 ms", "{}"), cleared="loses-packets")
    assert over(engine, old, 60) == [(30, "monitor-unhealthy", False)]
    assert deliver(engine, old + timedelta(hours=1)) == [f"[NTP Pool, test] Monitor {name} is healthy again"]


def judged(engine: Engine, until: datetime, row: LabelRow, cleared: str | None = None) -> None:
    """Let the selector judge the health of monitors."""

    def work(connection: Connection) -> None:
        health_store.write_labels(connection, [row], [] if cleared is None else [(row.monitor_id, cleared)])
        health_store.write_progress(connection, until)

    transaction(engine, work)


def test_alerts_of_a_later_version_are_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        row = {"kind": "from-the-future", "subject": "1", "raised": True, "name": "x", "detail": "", "raised_on": NOW}
        connection.execute(sa.insert(alerts).values(row))
    assert changes(engine, NOW) == []
    assert rows(engine, alerts) == 1


def test_operators_may_get_the_alerts_of_all_accounts(engine: Engine) -> None:
    a_server(engine, an_account(engine), 3.0)
    a_server(engine, None, 4.0)
    a_channel(engine, None, about=("server", "pool"))
    over(engine, NOW, 15)
    assert deliver(engine, NOW + timedelta(hours=1)) == ["[NTP Pool, test] 2 alerts: 2 raised"]


def test_changes_within_the_interval_are_one_message(engine: Engine) -> None:
    owner = an_account(engine)
    a_channel(engine, owner, digest=60)
    first = a_server(engine, owner, 3.0)
    over(engine, NOW, 15)
    assert len(deliver(engine, NOW + 15 * MINUTE)) == 1
    a_server(engine, owner, 4.0)
    set_score(engine, first, 20.0)
    over(engine, NOW + 15 * MINUTE, 45)
    assert deliver(engine, NOW + 60 * MINUTE) == []
    assert deliver(engine, NOW + 75 * MINUTE) == ["[NTP Pool, test] 2 alerts: 1 raised, 1 cleared"]


def test_of_two_notifiers_one_evaluates_at_a_time(server_engine: Engine) -> None:
    evaluate(server_engine, NOW)
    with server_engine.begin() as holding:
        assert begin_round(holding, NOW)
        assert evaluate(server_engine, NOW) is None
    assert evaluate(server_engine, NOW) is not None


def test_notifiers_at_the_same_time_tell_everything_once(engine: Engine) -> None:
    """They evaluate, compose and deliver without any agreement but the engine."""
    owner = an_account(engine)
    channels = [a_channel(engine, owner) for _ in range(3)]
    for _ in range(5):
        a_server(engine, owner, 3.0)
    notifiers, barrier, sent = 4, Barrier(4), list[OutMessage]()

    def run() -> None:
        for minute in range(0, 30, 5):
            barrier.wait()
            evaluate(engine, NOW + minute * MINUTE)
            for message in messages(engine, NOW + minute * MINUTE):
                sent.append(message)
                transaction(engine, lambda c, message=message: outbox.record_sent(c, message, NOW))  # type: ignore[misc]

    threads = [Thread(target=run) for _ in range(notifiers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent += messages(engine, NOW + timedelta(hours=1))
    told = sorted(
        (message.channel.id, line) for message in sent for line in message.body.split("\n") if "Server" in line
    )
    assert len(told) == len(set(told)) == 3 * 5
    assert {channel for channel, _ in told} == set(channels)


def a_message(engine: Engine) -> OutMessage:
    """Return a claimed message."""
    owner = an_account(engine)
    a_channel(engine, owner)
    a_server(engine, owner, 3.0)
    over(engine, NOW, 15)
    [message] = messages(engine, NOW)
    return message


def test_an_attempt_without_an_outcome_is_repeated_with_the_same_key_and_text(engine: Engine) -> None:
    first = a_message(engine)
    assert messages(engine, NOW + LEASE - MINUTE) == []
    [second] = messages(engine, NOW + LEASE)
    assert second == replace(first, attempts=2)


@pytest.mark.parametrize("back", [timedelta(hours=1), timedelta(days=1)])
def test_a_clock_that_was_set_back_keeps_no_message_waiting(engine: Engine, back: timedelta) -> None:
    message = a_message(engine)
    transaction(engine, lambda c: outbox.record_failure(c, message, "refused", NOW, NOW + 15 * MINUTE))
    assert messages(engine, NOW) == []
    [again] = messages(engine, NOW - back)
    assert again.key == message.key


def test_a_late_failure_does_not_disturb_the_next_attempt_and_a_late_success_ends_it(engine: Engine) -> None:
    first = a_message(engine)
    [second] = messages(engine, NOW + LEASE)
    again = NOW + LEASE + MINUTE
    transaction(engine, lambda c: outbox.record_failure(c, first, "slow", NOW, NOW))
    assert messages(engine, again) == []
    transaction(engine, lambda c: outbox.record_sent(c, first, again))
    transaction(engine, lambda c: outbox.record_failure(c, second, "slow", again, again))
    assert messages(engine, again + timedelta(days=1)) == []


def test_a_failing_channel_is_shown_until_it_works_and_holds_up_no_other(engine: Engine) -> None:
    message = a_message(engine)
    owner = message.channel.account_id
    working = a_channel(engine, owner)
    transaction(engine, lambda c: outbox.record_failure(c, message, "refused", NOW, NOW + timedelta(hours=1)))
    a_server(engine, owner, 2.0)
    over(engine, NOW + 15 * MINUTE, 15)
    [other] = messages(engine, NOW + 30 * MINUTE)
    assert other.channel.id == working
    transaction(engine, lambda c: outbox.record_sent(c, other, NOW + 30 * MINUTE))
    with engine.connect() as connection:
        failing = {row[0]: (row[8], row[9]) for row in list_channels(connection)}
    assert failing == {message.channel.id: (NOW, "refused"), working: (None, None)}
    [again] = messages(engine, NOW + timedelta(hours=1))
    transaction(engine, lambda c: outbox.record_sent(c, again, NOW + timedelta(hours=1)))
    with engine.connect() as connection:
        assert {row[8] for row in list_channels(connection)} == {None}
    [rest] = messages(engine, NOW + timedelta(hours=1))
    assert rest.channel.id == message.channel.id, "what happened meanwhile follows"


def test_a_removed_channel_or_account_takes_its_messages_with_it(engine: Engine) -> None:
    message = a_message(engine)
    transaction(engine, lambda c: remove_channel(c, message.channel.id))
    assert rows(engine, alert_messages) == 0
    transaction(engine, lambda c: outbox.record_sent(c, message, NOW))
    owner = an_account(engine)
    a_channel(engine, owner)
    with engine.begin() as connection:
        connection.execute(sa.delete(accounts).where(accounts.c.id == owner))
    assert rows(engine, alert_channels) == 0


def test_thousands_of_servers_are_told_in_messages_of_bounded_size(sqlite_engine: Engine) -> None:
    owner = an_account(sqlite_engine)
    a_channel(sqlite_engine, owner)
    for _ in range(250):
        a_server(sqlite_engine, owner, 3.0)
    over(sqlite_engine, NOW, 15)
    sizes = []
    while found := messages(sqlite_engine, NOW):
        sizes += [message.title for message in found]
        transaction(sqlite_engine, lambda c, one=found[0]: outbox.record_sent(c, one, NOW))  # type: ignore[misc]
    assert sizes == [f"[NTP Pool, test] {n} alerts: {n} raised" for n in (100, 100, 50)]


# ---- commands ------------------------------------------------------------------------------------------------------


def test_lists_show_what_is_raised_and_no_secret(engine: Engine) -> None:
    owner = an_account(engine)

    def work(connection: Connection) -> str:
        plan = channel_plan(account_id=owner, address=Address("url", "slack://tokentoken/secretsecret"))
        return add_channel(connection, plan, PEPPERS, NOW)

    assert "secret" not in transaction(engine, work)
    a_server(engine, owner, 3.0)
    over(engine, NOW, 15)
    with engine.connect() as connection:
        [alert] = list_alerts(connection, owner)
        assert (alert[0], alert[3]) == (SERVER_LOW, NOW + KINDS[SERVER_LOW].raise_after)
        assert list_alerts(connection, owner + 1000) == []
        [channel] = list_channels(connection)
        assert channel[2:4] == ("slack", "server,monitor")
        raw = connection.execute(sa.select(alert_channels)).one()
        assert "secret" not in str(raw)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"about": ["pool"]}, "--about"),
        ({"quiet": "22-7"}, "--quiet"),
        ({"zone": "Mars/Olympus"}, "--zone"),
        ({"zone": "../../etc/passwd"}, "--zone"),
        ({"digest": -1}, "--digest"),
    ],
)
def test_invalid_options_are_named(options: dict[str, object], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        channel_plan(account_id=1, address=Address("mail", "a@b"), **options)  # type: ignore[arg-type]


def test_an_account_has_a_bounded_number_of_channels(sqlite_engine: Engine) -> None:
    owner = an_account(sqlite_engine)
    for _ in range(20):
        a_channel(sqlite_engine, owner)
    with pytest.raises(OperatorError, match="remove one first"):
        a_channel(sqlite_engine, owner)

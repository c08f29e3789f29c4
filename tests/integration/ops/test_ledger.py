"""Test how operators show and change monitors and servers, on every database."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ops import servers as server_store
from ops.errors import OperatorError, UsageError
from ops.health import label_dicts, label_fields
from ops.monitors import change_monitor, find_monitor, list_monitors, show_monitor
from ops.servers import delete_server, list_servers, monitors_of, new_server, show_server
from runtime.db.engine import from_db, reading, transaction
from schema.names import Environment
from schema.tables import monitor_health, monitor_presence, monitors, server_scores, servers, servers_monitor_review
from testbed.fixtures.world import add_account, add_monitor, add_pair, add_scorer, add_server, monitor_name

NOW = datetime(2026, 11, 23, 12, 0, 0)
TODAY = NOW.date()
T = TypeVar("T")


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    return transaction(engine, work)


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    with reading(engine) as connection:
        return work(connection)


def change(engine: Engine, name: str, action: str, **more: bool) -> str:
    return write(engine, lambda c: change_monitor(c, name, action, NOW, **more))  # type: ignore[arg-type]


@pytest.fixture
def both(engine: Engine) -> tuple[int, int]:
    """Return the ids of an agent's monitors for both protocols."""
    name = monitor_name("uspao1-x")
    return (
        write(engine, lambda c: add_monitor(c, name, "v4", status="pending")),
        write(engine, lambda c: add_monitor(c, name, "v6", status="active")),
    )


# ---- finding a monitor ---------------------------------------------------------------------------------------------


def test_monitor_is_found_by_id_and_by_each_of_its_names(engine: Engine, both: tuple[int, int]) -> None:
    v4, v6 = both
    for text, expected in [
        (str(v4), v4),
        ("uspao1-x/v6", v6),
        (monitor_name("uspao1-x") + "/v4", v4),
    ]:
        assert read(engine, lambda c, text=text: find_monitor(c, text)).id == expected  # type: ignore[misc]


def test_ambiguous_name_is_refused_with_the_matching_monitors(engine: Engine, both: tuple[int, int]) -> None:
    with pytest.raises(OperatorError, match=rf"uspao1-x.*/v4 \(id {both[0]}, pending\).*/v6 \(id {both[1]}, active\)"):
        read(engine, lambda c: find_monitor(c, "uspao1-x"))


def test_short_name_must_match_completely(engine: Engine, both: tuple[int, int]) -> None:
    for text in ("uspao1", "uspao1-x.", "uspao1_x", "%", "uspao1-x/v5", "999999999999999999999999"):
        with pytest.raises(OperatorError, match="monitor"):
            read(engine, lambda c, text=text: find_monitor(c, text))  # type: ignore[misc]


def test_scorers_and_settings_are_not_monitors(engine: Engine) -> None:
    scorer = write(engine, add_scorer)
    settings = write(engine, lambda c: add_monitor(c, "settings-v4.system", status="pending"))
    for text in (str(scorer), str(settings), "settings-v4.system", "recentmedian"):
        with pytest.raises(OperatorError, match="not found"):
            read(engine, lambda c, text=text: find_monitor(c, text))  # type: ignore[misc]
    assert read(engine, lambda c: list_monitors(c, status=None, deleted=True)) == []


# ---- changes -------------------------------------------------------------------------------------------------------


def status(engine: Engine, monitor_id: int) -> str:
    query = sa.select(monitors.c.status).where(monitors.c.id == monitor_id)
    return str(read(engine, lambda c: c.scalar(query)))


@pytest.mark.parametrize(
    ("before", "action", "active", "after"),
    [
        ("pending", "approve", False, "testing"),
        ("pending", "approve", True, "active"),
        ("testing", "approve", True, "active"),
        ("pending", "pause", False, "paused"),
        ("testing", "pause", False, "paused"),
        ("active", "pause", False, "paused"),
        ("paused", "resume", False, "testing"),
        ("paused", "resume", True, "active"),
        ("active", "delete", False, "deleted"),
        ("pending", "delete", False, "deleted"),
        ("paused", "pause", False, "paused"),
        ("deleted", "delete", False, "deleted"),
    ],
)
def test_action_sets_the_status(engine: Engine, before: str, action: str, active: bool, after: str) -> None:
    found = write(engine, lambda c: add_monitor(c, monitor_name("m"), status=before))  # type: ignore[arg-type]
    more = {"active": True} if active else {}
    assert after in change(engine, "m", action, **more)
    assert status(engine, found) == after


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ("paused", "approve"),
        ("active", "approve"),
        ("deleted", "approve"),
        ("deleted", "pause"),
        ("deleted", "resume"),
        ("active", "resume"),
        ("pending", "resume"),
    ],
)
def test_impossible_action_is_refused_and_changes_nothing(engine: Engine, before: str, action: str) -> None:
    found = write(engine, lambda c: add_monitor(c, monitor_name("m"), status=before))  # type: ignore[arg-type]
    with pytest.raises(OperatorError, match=f"is {before}; it can only be"):
        change(engine, "m", action)
    assert status(engine, found) == before


def test_a_deleted_monitor_frees_its_address(engine: Engine) -> None:
    found = write(engine, lambda c: add_monitor(c, monitor_name("old"), ip="192.0.2.9"))
    change(engine, "old", "delete")
    row = read(engine, lambda c: c.execute(sa.select(monitors).where(monitors.c.id == found)).one())
    assert (row.status, row.deleted_on, row.is_current) == ("deleted", NOW, None)
    write(engine, lambda c: add_monitor(c, monitor_name("new"), ip="192.0.2.9"))


def test_deleted_monitors_are_listed_only_on_request(engine: Engine) -> None:
    write(engine, lambda c: add_monitor(c, monitor_name("old"), status="deleted"))
    write(engine, lambda c: add_monitor(c, monitor_name("new")))

    def names(**given: object) -> list[str]:
        return [row[1] for row in read(engine, lambda c: list_monitors(c, **given))]  # type: ignore[arg-type]

    assert names(status=None, deleted=False) == [monitor_name("new")]
    assert names(status=None, deleted=True) == [monitor_name("new"), monitor_name("old")]
    assert names(status="deleted", deleted=False) == [monitor_name("old")]


def test_monitor_is_shown_with_the_number_of_its_servers_by_status(engine: Engine) -> None:
    monitor = write(engine, lambda c: add_monitor(c, monitor_name("m")))
    for pair in ("active", "active", "candidate"):
        server = write(engine, add_server)
        write(engine, lambda c, s=server, p=pair: add_pair(c, s, monitor, p))  # type: ignore[misc]
    shown = dict(read(engine, lambda c: show_monitor(c, "m"))[0])
    assert shown["id"] == monitor and shown["online"] is None
    assert (shown["servers as active"], shown["servers as candidate"], shown["servers as paused"]) == (2, 1, 0)


def test_monitor_is_listed_and_shown_with_the_labels_of_its_health(engine: Engine) -> None:
    monitor, other = (write(engine, lambda c, n=name: add_monitor(c, monitor_name(n))) for name in "mn")  # type: ignore[misc]
    reason = "lost 4.1 % of 300 probes"
    for label, figures in (
        ("stable-1d", "{}"),
        ("loses-packets", '{"share": 0.041}'),
        ("of-a-newer-version", "nonsense"),
    ):
        row = {"monitor_id": monitor, "label": label, "since": NOW, "reason": reason, "figures": figures}
        write(engine, lambda c, row=row: c.execute(sa.insert(monitor_health).values(row)))  # type: ignore[misc]
    listed = {row[0]: row[-1] for row in read(engine, lambda c: list_monitors(c, status=None, deleted=False))}
    assert listed == {monitor: ("loses-packets", "stable-1d"), other: ()}
    _, held = read(engine, lambda c: show_monitor(c, "m"))
    assert label_fields(held)[0] == ("loses-packets", f"since {NOW:%Y-%m-%d %H:%M}: {reason}")
    given = {"since": from_db(NOW), "reason": reason, "figures": {"share": 0.041}}
    assert label_dicts(held)[0] == {"label": "loses-packets", **given}
    assert read(engine, lambda c: show_monitor(c, "n"))[1] == ()


def test_online_is_yes_no_or_unknown_on_every_database(engine: Engine) -> None:
    for name, online in (("a", True), ("b", False), ("c", None)):
        write(engine, lambda c, n=name: add_monitor(c, monitor_name(n)))  # type: ignore[misc]
        if online is not None:
            row = {"tls_name": monitor_name(name), "online": online, "since": NOW, "seen": NOW, "status": "{}"}
            write(engine, lambda c, row=row: c.execute(sa.insert(monitor_presence).values(row)))  # type: ignore[misc]
    listed = read(engine, lambda c: list_monitors(c, status=None, deleted=False))
    assert [[cell for cell in row if isinstance(cell, bool)] for row in listed] == [[True], [False], []]
    assert [dict(read(engine, lambda c, n=n: show_monitor(c, n))[0])["online"] for n in "abc"] == [True, False, None]  # type: ignore[misc]


# ---- servers -------------------------------------------------------------------------------------------------------


def add(engine: Engine, ip: str, **given: object) -> str:
    server = new_server("devel", ip, **given)  # type: ignore[arg-type]
    return write(engine, lambda c: server_store.add_server(c, server, NOW))


def test_a_new_server_is_in_the_pool_and_due_for_review(engine: Engine) -> None:
    account = write(engine, lambda c: add_account(c, "Ticks"))
    add(engine, "2001:DB8::0:1", hostname="time.example", account=str(account), port=11123)
    row = read(engine, lambda c: c.execute(sa.select(servers)).one())
    assert (row.ip, row.ip_version, row.in_pool, row.account_id) == ("2001:db8::1", "v6", 1, account)
    assert row.flags == '{"port": 11123}'
    review = read(engine, lambda c: c.execute(sa.select(servers_monitor_review)).one())
    assert (review.server_id, review.next_review) == (row.id, NOW)


def test_server_address_is_unique_in_any_notation(engine: Engine) -> None:
    add(engine, "192.0.2.1")
    with pytest.raises(OperatorError, match=r"192\.0\.2\.1: already exists"):
        add(engine, "::ffff:192.0.2.1")


def test_adding_a_server_again_reverts_its_deletion_and_keeps_other_values(engine: Engine) -> None:
    add(engine, "192.0.2.1", hostname="time.example", port=11123)
    write(engine, lambda c: delete_server(c, "192.0.2.1", TODAY))
    assert "reverted" in add(engine, "192.0.2.1")
    row = read(engine, lambda c: c.execute(sa.select(servers)).one())
    assert (row.deletion_on, row.hostname, row.flags) == (None, "time.example", '{"port": 11123}')


def test_server_is_due_for_review_after_its_deletion_is_reverted(engine: Engine) -> None:
    add(engine, "192.0.2.1")
    write(engine, lambda c: delete_server(c, "192.0.2.1", TODAY))
    write(engine, lambda c: c.execute(sa.update(servers_monitor_review).values(next_review=None)))
    add(engine, "192.0.2.1")
    assert read(engine, lambda c: c.scalar(sa.select(servers_monitor_review.c.next_review))) == NOW


def test_server_change_triggers_a_review_only_if_the_account_changes(engine: Engine) -> None:
    account = write(engine, lambda c: add_account(c, "Ticks"))
    add(engine, "192.0.2.1", hostname="time.example", port=11123)

    def change(**given: object) -> list[str]:
        write(engine, lambda c: c.execute(sa.update(servers_monitor_review).values(next_review=None)))
        wanted = server_store.server_change(**given)  # type: ignore[arg-type]
        said = write(engine, lambda c: server_store.set_server(c, "192.0.2.1", wanted, NOW))
        return [one.partition("): ")[2] for one in said]

    def due() -> object:
        return read(engine, lambda c: c.scalar(sa.select(servers_monitor_review.c.next_review)))

    assert (change(hostname="ntp.example"), due()) == (["hostname: was time.example, is ntp.example"], None)
    assert (change(account="Ticks"), due()) == ([f"account_id: was not set, is {account}"], NOW)
    row = read(engine, lambda c: c.execute(sa.select(servers)).one())
    assert (row.hostname, row.account_id, row.flags) == ("ntp.example", account, '{"port": 11123}')
    assert change(unset=["account", "hostname"]) == [
        f"account_id: was {account}, is not set",
        "hostname: was ntp.example, is not set",
    ]
    assert due() == NOW
    with pytest.raises(OperatorError, match="account 'nobody'"):
        change(account="nobody")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"hostname": ""}, "--hostname ''"),
        ({"hostname": "x" * 256}, "must be 1 to 255 characters"),
        ({"hostname": "a\x1bb"}, "on one line"),
        ({"unset": ["port"]}, "--unset 'port': must be one of hostname, account"),
        ({"unset": ["account"], "account": "1"}, "--unset account: conflicts with --account"),
    ],
)
def test_invalid_server_values_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as raised:
        server_store.server_change(**given)
    assert named in str(raised.value)


def test_repeated_deletion_is_reported_as_already_scheduled(engine: Engine) -> None:
    add(engine, "192.0.2.1")
    said = [write(engine, lambda c: delete_server(c, "192.0.2.1", TODAY)) for _ in range(2)]
    assert [one.partition("): ")[2] for one in said] == [
        "is scheduled for deletion on 2026-11-23",
        "is already scheduled for deletion on 2026-11-23",
    ]


def test_server_without_a_stratum_shows_the_stratum_of_its_newest_pair(engine: Engine) -> None:
    server = write(engine, lambda c: add_server(c, "192.0.2.1"))

    def pair(stratum: int | None, minute: int) -> None:
        monitor = write(engine, lambda c: add_monitor(c, monitor_name(f"m{minute}")))
        write(engine, lambda c: add_pair(c, server, monitor, score_ts=NOW.replace(minute=minute)))
        mine = server_scores.c.monitor_id == monitor
        write(engine, lambda c: c.execute(sa.update(server_scores).where(mine).values(stratum=stratum)))

    def shown() -> object:
        return dict(read(engine, lambda c: show_server(c, "192.0.2.1")))["stratum"]

    assert shown() is None
    for stratum, minute in ((2, 10), (3, 20), (4, 5), (None, 30)):
        pair(stratum, minute)
    assert shown() == 3
    assert [row[5] for row in read(engine, lambda c: monitors_of(c, server))] == [2, 3, 4, None]
    write(engine, lambda c: c.execute(sa.update(servers).values(stratum=1)))
    assert shown() == 1


@pytest.mark.parametrize(
    ("env", "port", "good"),
    [
        *(("prod", 123, True), ("test", 123, True), ("prod", 124, False), ("test", 1123, False)),
        *(("devel", 1, True), ("devel", 65535, True), ("devel", 0, False), ("devel", 65536, False)),
    ],
)
def test_only_devel_allows_another_port(env: Environment, port: int, good: bool) -> None:
    if good:
        assert new_server(env, "8.8.8.8", port=port).port == port
    else:
        with pytest.raises(UsageError, match=f"--port {port}: must be"):
            new_server(env, "8.8.8.8", port=port)


def test_an_unknown_account_is_named(engine: Engine) -> None:
    with pytest.raises(OperatorError, match="account 'nobody'"):
        add(engine, "192.0.2.1", account="nobody")
    assert read(engine, lambda c: list_servers(c, deleted=True)) == []


def test_deletion_can_be_brought_forward_but_not_postponed(engine: Engine) -> None:
    add(engine, "192.0.2.1")
    for on, expected in [(date(2027, 1, 1), date(2027, 1, 1)), (TODAY, TODAY), (date(2028, 1, 1), TODAY)]:
        write(engine, lambda c, on=on: delete_server(c, "192.0.2.1", on))  # type: ignore[misc]
        assert read(engine, lambda c: c.scalar(sa.select(servers.c.deletion_on))) == expected


@pytest.mark.parametrize("text", ["x", "", "192.0.2", "17", "9" * 30, "192.0.2.77", "-1"])
def test_an_unknown_server_is_named(engine: Engine, text: str) -> None:
    with pytest.raises(OperatorError, match=f"server {text!r}"):
        write(engine, lambda c: delete_server(c, text, TODAY))


def test_servers_are_listed_with_their_monitors_but_without_scorers(engine: Engine) -> None:
    server = write(engine, lambda c: add_server(c, "192.0.2.1", score=17.5))
    write(engine, lambda c: add_server(c, "192.0.2.2"))
    scorer = write(engine, add_scorer)
    write(engine, lambda c: add_pair(c, server, scorer, "active"))
    for short, pair in [("b", "testing"), ("a", "active"), ("c", "candidate")]:
        monitor = write(engine, lambda c, s=short: add_monitor(c, monitor_name(s)))  # type: ignore[misc]
        write(engine, lambda c, m=monitor, p=pair: add_pair(c, server, m, p))  # type: ignore[misc]
    first, second = read(engine, lambda c: list_servers(c, deleted=False))
    assert (first[1], first[4], first[6:9]) == ("192.0.2.1", 17.5, (1, 1, 1))
    assert second[6:9] == (0, 0, 0)
    assert [pair[2] for pair in read(engine, lambda c: monitors_of(c, server))] == ["active", "testing", "candidate"]
    assert dict(read(engine, lambda c: show_server(c, "192.0.2.1")))["score"] == 17.5


@pytest.mark.parametrize(
    "ip",
    [
        *("10.0.0.1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "fe80::1%eth0", "example.org", ""),
        *("fec0::1", "::8.8.8.8", "64:ff9b::a00:1", "2002:a00:1::1", "192.0.2.1", "::ffff:10.0.0.1"),
    ],
)
def test_only_public_addresses_are_accepted_in_prod(ip: str) -> None:
    with pytest.raises(UsageError, match="address"):
        new_server("prod", ip)

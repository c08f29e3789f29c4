"""Test the pure parts of publishing: the messages to agents, and differences in the retained tree."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest

from runtime.db.system_settings import Intervals
from schema.messages import Assignment, encode
from schema.topics import Topics
from selector.assignments import PairRow, Terms, assignment, assignments_by_topic
from selector.monitors import is_gone
from selector.reconcile import Difference, decoded, difference
from selector.row_warnings import RowWarnings
from selector.triggers import SeenState, what_changed

TODAY = date(2026, 1, 2)
NAME = "m.devel.mon.example"
DEVEL = Terms(Topics("devel"), Intervals(), TODAY)
PROD = Terms(Topics("prod"), Intervals(), TODAY)


def row(**changes: Any) -> PairRow:
    fields: dict[str, Any] = {
        "monitor": NAME,
        "ipv": "v4",
        "monitor_status": "active",
        "server_id": 7,
        "ip": "198.41.0.4",
        "deletion_on": None,
        "flags": "{}",
        "status": "active",
    }
    return PairRow(**{**fields, **changes})


@pytest.mark.parametrize(("status", "interval"), [("active", 540), ("testing", 2700), ("candidate", 7200)])
def test_a_pair_is_measured_at_the_interval_of_its_status(status: str, interval: float) -> None:
    told = assignment(row(status=status), PROD, RowWarnings())
    assert told is not None
    assert (told.server_id, told.ip, told.port, told.status, told.interval) == (7, "198.41.0.4", 123, status, interval)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "paused"},
        {"status": "odd"},
        {"monitor_status": "pending"},
        {"monitor_status": "paused"},
        {"monitor_status": "deleted"},
        {"deletion_on": TODAY},
        {"deletion_on": date(2025, 12, 31)},
        {"ip": "2001:db8::1"},
        {"ip": "nowhere"},
    ],
)
def test_pairs_that_must_not_be_measured_have_no_assignment(changes: dict[str, Any]) -> None:
    assert assignment(row(**changes), DEVEL, RowWarnings()) is None


@pytest.mark.parametrize("ip", ["10.0.0.1", "192.0.2.1", "169.254.169.254"])
def test_only_public_servers_are_measured_outside_devel(ip: str) -> None:
    assert assignment(row(ip=ip), PROD, RowWarnings()) is None
    assert assignment(row(ip=ip), DEVEL, RowWarnings()) is not None


def test_server_is_measured_until_its_day_of_deletion() -> None:
    assert assignment(row(deletion_on=date(2026, 1, 3)), DEVEL, RowWarnings()) is not None


@pytest.mark.parametrize(
    ("flags", "port", "wrong"),
    [
        ('{"port": 1123}', 1123, False),
        ('{"other": 1}', 123, False),
        ("", 123, False),
        ('{"port": 0}', 123, True),
        ('{"port": 65536}', 123, True),
        ('{"port": "1123"}', 123, True),
        ('{"port": true}', 123, True),
        ("[]", 123, True),
        ("{", 123, True),
    ],
)
def test_server_may_have_another_port_only_in_devel(
    flags: str, port: int, wrong: bool, caplog: pytest.LogCaptureFixture
) -> None:
    told = assignment(row(flags=flags), DEVEL, RowWarnings())
    assert told is not None
    assert told.port == port
    assert bool(caplog.records) is wrong
    elsewhere = assignment(row(flags=flags), PROD, RowWarnings())
    assert elsewhere is not None
    assert elsewhere.port == 123


@pytest.mark.parametrize("name", ["M.devel.mon.example", "m.prod.mon.example", "m/devel", "a.devel.b/#", "old-monitor"])
def test_invalid_or_foreign_monitor_name_gets_no_assignments(name: str, caplog: pytest.LogCaptureFixture) -> None:
    row_warnings = RowWarnings()
    for _ in range(3):
        assert assignments_by_topic([row(monitor=name)], DEVEL, row_warnings) == {}
    [record] = caplog.records
    assert name in record.getMessage()


def test_pair_without_an_assignment_yields_none() -> None:
    told = assignments_by_topic([row(), row(server_id=8, status="paused")], DEVEL, RowWarnings())
    assert told["/devel/monitors/assignments/m.devel.mon.example/v4/7"] is not None
    assert told["/devel/monitors/assignments/m.devel.mon.example/v4/8"] is None


def test_warnings_are_logged_once_until_they_change(caplog: pytest.LogCaptureFixture) -> None:
    row_warnings = RowWarnings()
    for what in ("a", "a", "b", "b"):
        row_warnings.warn("server", 1, what)
        row_warnings.warn("monitor", 1, what)
    assert [record.getMessage() for record in caplog.records] == [
        "server 1: a",
        "monitor 1: a",
        "server 1: b",
        "monitor 1: b",
    ]


def told(server_id: int, status: Any = "active") -> Assignment:
    return Assignment(server_id=server_id, ip="192.0.2.1", status=status, interval=540.0)


def test_differences_between_tree_and_ledger_are_found() -> None:
    tree = {"right": told(1), "other": told(2, "testing"), "left over": told(3), "foreign": told(4), "broken": None}
    wanted = {"right": told(1), "other": told(2), "new": told(5), "left over": None, "not there": None}
    assert difference(tree, wanted) == Difference(
        {"other": told(2), "new": told(5), "left over": None, "foreign": None, "broken": None},
        missing=1,
        different=1,
        stale=3,
    )
    assert difference({"a": told(1)}, {"a": told(1)}) == Difference()
    assert difference({"a": None}, {"a": told(1)}).repairs == {"a": told(1)}


def test_undecodable_payloads_are_still_part_of_the_tree() -> None:
    tree = {"a": encode(told(1)), "b": b"{}", "c": b"\xff", "d": b'{"server_id": 1, "ip": 5}'}
    assert decoded(tree) == {"a": told(1), "b": None, "c": None, "d": None}


def test_unknown_fields_of_a_newer_selector_are_no_difference() -> None:
    newer = encode(told(1))[:-1] + b',"later":1}'
    assert decoded({"a": newer}) == {"a": told(1)}


SEEN = SeenState("active", "192.0.2.1", 3, "2", False)


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (SEEN, ()),
        (SeenState("testing", "192.0.2.1", 3, "2", False), ("status",)),
        (SeenState("active", None, 3, "2", False), ("address",)),
        (SeenState("active", "192.0.2.1", None, "2", False), ("account",)),
        (SeenState("active", "192.0.2.1", 3, "broken", False), ("limit",)),
        (SeenState("active", "192.0.2.1", 3, "2", True), ("gone",)),
        (SeenState("paused", "192.0.2.2", 4, "1", True), ("status", "address", "account", "limit", "gone")),
    ],
)
def test_changes_of_a_monitor_are_named(after: SeenState, what: tuple[str, ...]) -> None:
    assert what_changed(SEEN, after) == what


def test_coming_back_is_a_change_too() -> None:
    assert what_changed(SeenState("active", None, None, "2", True), SeenState("active", None, None, "2", False)) == (
        "back",
    )


NOW = datetime(2026, 1, 2, 12)
JUST_NOW, LONG_AGO = NOW - timedelta(minutes=14, seconds=59), NOW - timedelta(minutes=15)


@pytest.mark.parametrize(("last", "gone"), [(JUST_NOW, False), (LONG_AGO, True), (None, True)])
def test_monitor_is_gone_after_15_minutes_without_a_status(last: datetime | None, gone: bool) -> None:
    assert is_gone(last, NOW) is gone

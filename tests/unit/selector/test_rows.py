"""Test the conversion of rows to values: an invalid row is reported, skipped and keeps its place."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from selector.rows import BadRow, RawMonitor, account_limit, parse_address, parse_monitor, parse_monitors, parse_server
from selector.rules.model import GlobalStatus, Monitor, PairStatus, Settings, Skipped
from testbed.selection.worlds import many, scene

GOOD = RawMonitor(
    id=1,
    name="one.test.mon.example",
    ip="10.1.2.3",
    ip_version="v4",
    account_id=4,
    account_flags='{"monitors_per_server_limit": 3, "monitor_limit": 9}',
    global_status="active",
    pair_status="active",
    count=150,
    avg_step=0.9,
    avg_rtt_ms=12.5,
    violation_type="limit",
    violation_since=datetime(2026, 1, 2),
    last_constraint_check=datetime(2026, 1, 3, tzinfo=UTC),
    pause_reason=None,
)


def test_valid_row_is_converted() -> None:
    parsed = parse_monitor(GOOD)
    assert parsed == Monitor(
        id=1,
        name="one.test.mon.example",
        address=parse_address("10.1.2.3"),
        account_id=4,
        limit=3,
        global_status=GlobalStatus.ACTIVE,
        pair_status=PairStatus.ACTIVE,
        count=150,
        avg_step=0.9,
        avg_rtt_ms=12.5,
        violation_type="limit",
        violation_since=datetime(2026, 1, 2, tzinfo=UTC),
        last_constraint_check=datetime(2026, 1, 3, tzinfo=UTC),
    )


def test_averages_may_be_decimals_or_missing() -> None:
    parsed = parse_monitor(replace(GOOD, avg_step=Decimal("0.5"), avg_rtt_ms=None))  # type: ignore[arg-type]
    assert isinstance(parsed, Monitor)
    assert (parsed.avg_step, parsed.avg_rtt_ms) == (0.5, None)


def test_monitor_without_a_pair_is_ignored() -> None:
    parsed = parse_monitor(replace(GOOD, pair_status=None))
    assert isinstance(parsed, Monitor)
    review = scene(parsed).review()
    assert (review.changes, review.world.entries) == ((), ())


BROKEN: dict[str, dict[str, Any]] = {
    "address 'localhost'": {"ip": "localhost"},
    "address None": {"ip": None},
    "address ''": {"ip": ""},
    "address '10.1.2'": {"ip": "10.1.2"},
    "address '10.1.2.3': is IPv4, but its protocol is 'v6'": {"ip_version": "v6"},
    "address '2001:db8::1': is IPv6, but its protocol is 'v4'": {"ip": "2001:db8::1"},
    "protocol None": {"ip_version": None},
    "protocol 'v5'": {"ip_version": "v5"},
    "monitor status 'sleeping'": {"global_status": "sleeping"},
    "pair status 'retired'": {"pair_status": "retired"},
}


@pytest.mark.parametrize("says", BROKEN)
def test_invalid_row_is_skipped_with_the_reason(says: str) -> None:
    parsed = parse_monitor(replace(GOOD, **BROKEN[says]))
    assert isinstance(parsed, Skipped)
    assert parsed.reason.startswith(says)
    assert (parsed.id, parsed.name) == (1, GOOD.name)
    assert parsed.pair_status is (None if "pair status" in says else PairStatus.ACTIVE)


@pytest.mark.parametrize("says", [says for says in BROKEN if "status" not in says])
@pytest.mark.parametrize("status", ["paused", "deleted"])
def test_blocked_monitor_leaves_whatever_else_its_row_contains(says: str, status: str) -> None:
    parsed = parse_monitor(replace(GOOD, **BROKEN[says], global_status=status))
    assert isinstance(parsed, Monitor)
    others = many(range(11, 18), "active")
    assert [change.to_status for change in scene(parsed, *others).review().changes] == [PairStatus.CANDIDATE]


def test_invalid_row_does_not_affect_the_others() -> None:
    rows = parse_monitors([GOOD, replace(GOOD, id=2, ip="nonsense"), replace(GOOD, id=3, global_status="paused")])
    review = scene(*rows).review()
    assert [skipped.id for skipped in review.skipped] == [2]
    assert [change.monitor_id for change in review.changes] == [3]


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        (None, 2),
        ("", 2),
        ("null", 2),
        ("{}", 2),
        ('{"monitors_per_server_limit": null}', 2),
        ('{"monitors_per_server_limit": 1}', 1),
        ('{"monitors_per_server_limit": 7}', 7),
        ('{"monitors_per_server_limit": 7, "monitor_limit": 1}', 7),
        ('{"monitors_per_server_limit": 1%s}' % ("0" * 30), 1_000_000),
    ],
)
def test_limit_of_an_account_comes_from_its_flags(flags: str | None, limit: int) -> None:
    assert account_limit(flags) == (limit, "")


ODD_FLAGS = {
    '{"monitors_per_server_limit": 0}': (
        "flag monitors_per_server_limit is 0: must be a whole number of at least 1; 2 is used"
    ),
    '{"monitors_per_server_limit": -1}': "flag monitors_per_server_limit is -1: must be",
    '{"monitors_per_server_limit": "3"}': 'flag monitors_per_server_limit is "3": must be',
    '{"monitors_per_server_limit": true}': "flag monitors_per_server_limit is true: must be",
    '{"monitors_per_server_limit": 1.5}': "flag monitors_per_server_limit is 1.5: must be",
    '{"monitors_per_server_limit": 1e999}': "flag monitors_per_server_limit is Infinity: must be",
    '{"monitors_per_server_limit": {"v4": 3}}': 'flag monitors_per_server_limit is {"v4": 3}: must be',
    "{": "flags '{': are not JSON; a limit of 2 is used",
    "[3]": "flags '[3]': are not a JSON object; a limit of 2 is used",
}


@pytest.mark.parametrize("flags", ODD_FLAGS)
def test_invalid_limit_of_an_account_means_the_default(flags: str) -> None:
    limit = account_limit(flags)
    assert limit.value == 2
    assert limit.odd.startswith(ODD_FLAGS[flags])
    parsed = parse_monitor(replace(GOOD, account_flags=flags))
    assert isinstance(parsed, Monitor)
    assert parsed.limit == 2


MEASURED: dict[str, tuple[dict[str, Any], tuple[int, float | None, float | None]]] = {
    "a negative rtt": ({"avg_rtt_ms": -500.0}, (150, 0.9, 0.0)),
    "an rtt of minutes": ({"avg_rtt_ms": 1e30}, (150, 0.9, 1e6)),
    "an infinite rtt": ({"avg_rtt_ms": float("inf")}, (150, 0.9, 1e6)),
    "an rtt that is no number": ({"avg_rtt_ms": float("nan")}, (150, 0.9, 1e6)),
    "a step that is no number": ({"avg_step": float("nan")}, (150, -10.0, 12.5)),
    "an infinite step": ({"avg_step": float("inf")}, (150, 1.0, 12.5)),
    "an endless fall": ({"avg_step": float("-inf")}, (150, -10.0, 12.5)),
    "a negative count": ({"count": -1}, (0, 0.9, 12.5)),
}


@pytest.mark.parametrize("what", MEASURED)
def test_implausible_averages_are_clamped(what: str) -> None:
    fields, expected = MEASURED[what]
    parsed = parse_monitor(replace(GOOD, **fields))
    assert isinstance(parsed, Monitor)
    assert (parsed.count, parsed.avg_step, parsed.avg_rtt_ms) == expected


@pytest.mark.parametrize("flags", [None, *ODD_FLAGS])
@pytest.mark.parametrize("rtt", [-500.0, float("nan"), 1e30, 50.0])
def test_unhealthy_monitor_leaves_whatever_its_rtt_and_account(rtt: float, flags: str | None) -> None:
    raw = replace(GOOD, id=1, avg_step=-5.0, avg_rtt_ms=rtt, account_flags=flags)
    review = scene(parse_monitor(raw), *many(range(11, 17), "active"), *many(range(21, 26), "testing")).review()
    assert [(change.monitor_id, change.rule) for change in review.changes][:1] == [(1, "rule 2: out")]


def test_ipv4_mapped_address_equals_the_ipv4_address() -> None:
    assert parse_address("::ffff:10.1.2.3", "v6") == parse_address("10.1.2.3")
    assert parse_address("2001:DB8::0001") == parse_address("2001:db8::1")


def test_server_with_an_invalid_address_cannot_be_reviewed() -> None:
    with pytest.raises(BadRow, match=r"address 'nowhere'"):
        parse_server(1, "nowhere", "v4", None)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "7"])
@pytest.mark.parametrize("name", ["target_active", "target_testing"])
def test_invalid_targets_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        Settings(**{name: value})


@given(
    st.builds(
        RawMonitor,
        id=st.integers(),
        name=st.text(),
        ip=st.none() | st.text() | st.ip_addresses().map(str),
        ip_version=st.none() | st.text() | st.sampled_from(("v4", "v6")),
        account_id=st.none() | st.integers(),
        account_flags=st.none() | st.text() | st.sampled_from(('{"monitors_per_server_limit": 1e99}', "[[[[", "NaN")),
        global_status=st.text() | st.sampled_from(list(GlobalStatus)),
        pair_status=st.none() | st.text() | st.sampled_from(list(PairStatus)),
        avg_step=st.none() | st.floats(),
        avg_rtt_ms=st.none() | st.floats(),
        count=st.integers(),
        gone=st.booleans(),
        violation_type=st.none() | st.text(),
        violation_since=st.none() | st.datetimes(),
        last_constraint_check=st.none() | st.datetimes(),
        pause_reason=st.none() | st.text(),
    )
)
def test_arbitrary_row_never_stops_a_review(raw: RawMonitor) -> None:
    parsed = parse_monitor(raw)
    others = many(range(101, 104), "active")
    review = scene(parsed, *others).review()
    assert {change.monitor_id for change in review.changes} <= {raw.id}

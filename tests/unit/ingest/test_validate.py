"""Test which results are accepted: every limit with the value just inside and just outside."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from ingest import validate
from testbed.fixtures.batches import ARRIVED, new_result
from testbed.paths import CHECKOUT

MICROSECOND = timedelta(microseconds=1)


def refused(**fields: Any) -> str | None:
    return validate.impossible(new_result(1, "192.0.2.1", **fields), ARRIVED)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"ts": ARRIVED + timedelta(seconds=60)}, None),
        ({"ts": ARRIVED + timedelta(seconds=60) + MICROSECOND}, validate.IN_THE_FUTURE),
        ({"ts": ARRIVED - timedelta(days=3)}, None),
        ({"ts": ARRIVED - timedelta(days=3) - MICROSECOND}, validate.TOO_OLD),
        ({"ts": datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=14)))}, validate.TOO_OLD),
        ({"ts": datetime(9998, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=12)))}, validate.IN_THE_FUTURE),
        ({"ts": datetime(2026, 1, 2, 14, tzinfo=timezone(timedelta(hours=2)))}, None),
        ({"offset": None, "rtt": None, "stratum": None, "leap": None}, None),
        ({"offset": -(2.0**33)}, None),
        ({"offset": 2.0**33 * 1.001}, validate.IMPOSSIBLE_OFFSET),
        ({"offset": math.nan}, validate.IMPOSSIBLE_OFFSET),
        ({"offset": -math.inf}, validate.IMPOSSIBLE_OFFSET),
        ({"rtt": 0.0}, None),
        ({"rtt": 2.0**33}, None),
        ({"rtt": -1e-9}, "impossible rtt"),
        ({"rtt": -1000.0}, "impossible rtt"),
        ({"rtt": math.nan}, "impossible rtt"),
        ({"rtt": math.inf}, "impossible rtt"),
        ({"rtt": 1e11}, "impossible rtt"),
        ({"root_delay": 0.0, "root_dispersion": 0.0}, None),
        ({"root_delay": 65_535.99, "root_dispersion": 65_535.99}, None),
        ({"root_delay": -0.001}, "impossible root delay"),
        ({"root_delay": 65_536.0}, "impossible root delay"),
        ({"root_delay": math.nan}, "impossible root delay"),
        ({"root_dispersion": -0.001}, "impossible root dispersion"),
        ({"root_dispersion": 65_536.0}, "impossible root dispersion"),
        ({"root_dispersion": math.inf}, "impossible root dispersion"),
        ({"stratum": 0}, None),
        ({"stratum": 255}, None),
        ({"stratum": 256}, validate.IMPOSSIBLE_STRATUM),
        ({"stratum": -1}, validate.IMPOSSIBLE_STRATUM),
        ({"leap": 3}, None),
        ({"leap": 4}, validate.IMPOSSIBLE_LEAP),
        ({"leap": -1}, validate.IMPOSSIBLE_LEAP),
        ({"sent": 0, "received": 0}, None),
        ({"sent": 1, "received": 2}, validate.IMPOSSIBLE_SAMPLES),
        ({"sent": -1, "received": -1}, validate.IMPOSSIBLE_SAMPLES),
        ({"sent": 1001, "received": 1}, validate.IMPOSSIBLE_SAMPLES),
    ],
)
def test_impossible_measurements_are_rejected(fields: dict[str, Any], reason: str | None) -> None:
    assert refused(**fields) == reason


def test_pending_deleted_and_unknown_monitors_are_rejected() -> None:
    assert validate.monitor_refused(None) == validate.UNKNOWN_MONITOR
    assert validate.monitor_refused("pending") == validate.MONITOR_PENDING
    assert validate.monitor_refused("deleted") == validate.MONITOR_DELETED
    assert [validate.monitor_refused(status) for status in ("testing", "active", "paused")] == [None] * 3


@pytest.mark.parametrize(
    ("told", "ours", "reason"),
    [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1", "192.0.2.2", validate.OTHER_ADDRESS),
        ("2001:DB8::1", "2001:db8:0:0::1", None),
        ("", "192.0.2.1", validate.OTHER_ADDRESS),
        ("not an address", "192.0.2.1", validate.OTHER_ADDRESS),
        ("192.0.2.1", None, validate.UNKNOWN_SERVER),
    ],
)
def test_unknown_servers_and_other_addresses_are_rejected(told: str, ours: str | None, reason: str | None) -> None:
    assert validate.server_refused(new_result(1, told), ours) == reason


def test_only_pairs_that_are_not_measured_now_need_their_history() -> None:
    needing = [
        (monitor, pair)
        for monitor in ("testing", "active", "paused")
        for pair in ("candidate", "testing", "active", "paused")
        if validate.needs_history(monitor, pair)
    ]
    assert needing == [("testing", "paused"), ("active", "paused"), ("paused", "candidate"), ("paused", "paused")]


def test_results_measured_before_the_end_of_an_assignment_count() -> None:
    ended = datetime(2026, 1, 2, 11, tzinfo=UTC)
    assert validate.was_assigned(new_result(1, "", ts=ended - timedelta(hours=9)), ended)
    assert validate.was_assigned(new_result(1, "", ts=ended + timedelta(seconds=60)), ended)
    assert not validate.was_assigned(new_result(1, "", ts=ended + timedelta(seconds=60) + MICROSECOND), ended)
    assert not validate.was_assigned(new_result(1, "", ts=ended), None)


def test_ids_outside_the_columns_range_become_0() -> None:
    given = [-1, 0, 1, 2**32 - 1, 2**32, 10**40]
    assert [validate.known_id(i) for i in given] == [0, 0, 1, 2**32 - 1, 0, 0]


def test_every_reason_is_documented() -> None:
    text = (CHECKOUT / "docs" / "topics.md").read_text(encoding="utf-8")
    told = {row.partition("|")[0] for row in text.split("\n| ") if row.startswith("`")}
    reasons = {value for name, value in vars(validate).items() if name.isupper() and isinstance(value, str)}
    assert len(reasons) == 17
    assert [reason for reason in reasons if not any(f"`{reason}`" in row for row in told)] == []

"""Test a worker's health report: each dependency, how long it may be unavailable, and the log."""

import logging

import pytest

from runtime.health import Contact, Finding, LastWell, Report, Rounds
from runtime.retry import Setback


class Time:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_report_is_ok_only_while_all_checks_are_ok() -> None:
    well = Report("ingest", {"broker": Finding(0.0), "database": Finding(29.96, detail="away")})
    assert well.as_json() == {
        "ok": True,
        "service": "ingest",
        "checks": {
            "broker": {"ok": True, "age": 0.0, "bound": 30.0},
            "database": {"ok": True, "age": 30.0, "bound": 30.0, "detail": "away"},
        },
    }
    ill = Report("ingest", {"broker": Finding(0.0), "database": Finding(30.1, detail="away")})
    assert (ill.ok, ill.as_json()["ok"], ill.as_json()["checks"]["database"]["ok"]) == (False, False, False)


def test_age_counts_from_the_last_success(time: Time) -> None:
    well = LastWell(time)
    time.now += 7
    assert well.age() == 7
    well.note()
    assert well.age() == 0


def test_age_of_an_unused_database_grows(time: Time) -> None:
    contact = Contact(time)
    time.now += 31
    assert (contact.finding().age, contact.finding().ok) == (31, False)
    contact.succeeded("clock")
    assert contact.finding() == Finding(0.0)


def test_failing_task_is_not_cleared_by_successes_of_others(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """As on a full disk, where reads still work."""
    caplog.set_level(logging.INFO)
    contact = Contact(time)
    contact.failed("results", Setback("the disk is full"))
    time.now += 20
    contact.failed("presence", Setback("the disk is full"))
    contact.failed("results", Setback("still full"))
    time.now += 11
    contact.succeeded("clock")
    assert contact.finding() == Finding(31.0, detail="still full")
    assert not contact.finding().ok
    caplog.clear()
    contact.succeeded("results")
    assert contact.finding() == Finding(11.0, detail="the disk is full")
    contact.succeeded("presence")
    assert contact.finding().ok
    assert caplog.messages == ["database: works again, after 31 s"], "one line, however many waited"


def test_task_that_gave_up_no_longer_counts_as_waiting(time: Time) -> None:
    contact = Contact(time)
    contact.failed("results", Setback("away"))
    contact.gave_up("results")
    contact.gave_up("results")
    assert contact.finding().detail is None


def test_round_that_does_not_end_is_unhealthy(time: Time) -> None:
    rounds = Rounds(time)
    assert rounds.finding() == Finding(0.0, 120.0)
    with rounds.one("scoring"):
        time.now += 30
        with rounds.one("results"):
            time.now += 91
            found = rounds.finding()
            assert (found.age, found.ok, found.detail) == (121, False, "a round of scoring is under way")
    with pytest.raises(ZeroDivisionError), rounds.one("scoring"):
        _ = 1 / 0
    assert rounds.finding().ok

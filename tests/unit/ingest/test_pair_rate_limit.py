"""Test the limit of results per pair: honest agents never exceed it, excessive ones always do."""

from bisect import insort
from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.pair_rate_limit import (
    Window,
    intervals_of_status,
    is_too_soon,
    may_be_too_soon,
    shortest,
    were_changed,
    windows,
)
from runtime.db.system_settings import Intervals

NOON = datetime(2026, 1, 20, 12)
DEFAULT = {"active": 540, "testing": 2700, "candidate": 7200}


def at(seconds: float) -> datetime:
    """Return a time as the ledger stores it, in whole seconds."""
    return (NOON + timedelta(seconds=seconds)).replace(microsecond=0)


class StoredPair:
    """The ledger's rows of a pair whose results arrive one by one."""

    def __init__(self, interval: float) -> None:
        self.interval = timedelta(seconds=interval)
        self.times: list[datetime] = []

    def takes(self, seconds: float) -> bool:
        """Return whether a result measured then is stored."""
        newest, ts = max(self.times, default=None), at(seconds)
        refused = is_too_soon(ts, newest, self.interval, self.times)
        if not refused:
            insort(self.times, ts)
        return not refused

    def stored_of(self, moments: Iterable[float]) -> int:
        return sum([self.takes(moment) for moment in moments])


# ---- honest agents -------------------------------------------------------------------------------------------------


def process(draw: st.DrawFn, interval: float, count: int) -> list[float]:
    """Return when one process measures: once per interval, with a jitter of a twentieth, and late when it is busy."""
    moments: list[float] = []
    for slot in range(count):
        due = (slot + draw(st.floats(-0.05, 0.05))) * interval
        late = draw(st.just(0.0) | st.floats(0, 0.5)) * interval
        earliest = moments[-1] + interval / 2 if moments else due
        moments.append(max(due + late, earliest))
    return moments


@st.composite
def diligence(draw: st.DrawFn) -> tuple[float, list[float]]:
    """Draw an interval and an honest monitor's times: of one process or two, and of one restart or manual run."""
    interval = draw(st.sampled_from([2.0, 3.0, 540.0, 2700.0, 7200.0]))
    count = draw(st.integers(1, 30))
    moments = [moment for _ in range(draw(st.integers(1, 2))) for moment in process(draw, interval, count)]
    moments.append(draw(st.floats(0, count * interval)))
    return interval, moments


@given(diligence(), st.randoms())
def test_honest_monitor_loses_no_result_whatever_the_order_of_arrival(
    measured: tuple[float, list[float]], chance: object
) -> None:
    interval, moments = measured
    shuffled = list(moments)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # a Random
    for order in (sorted(moments), sorted(moments, reverse=True), shuffled):
        assert StoredPair(interval).stored_of(order) == len(moments)


@pytest.mark.parametrize("interval", [2.0, 540.0])
def test_agent_loses_no_result_when_its_interval_is_shortened(interval: float) -> None:
    """The shorter interval also applies to results that were measured before the change."""
    slow = [step * 5 * interval for step in range(10)]
    fast = [slow[-1] + interval / 2 + step * interval for step in range(30)]
    assert StoredPair(interval).stored_of(slow + fast) == 40


@given(diligence())
def test_results_in_order_need_no_look_up_in_the_ledger(measured: tuple[float, list[float]]) -> None:
    interval, _ = measured
    told = intervals_of_status(Intervals(interval_active=interval))
    for slot in range(30):
        assert not may_be_too_soon(at((slot + 0.95) * interval), at((slot + 0.05) * interval - 1), "active", told) or (
            interval < 10
        )


# ---- excessive senders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [2.0, 540.0, 7200.0])
def test_five_results_with_the_same_time_are_stored(interval: float) -> None:
    assert StoredPair(interval).stored_of([0.0] * 24) == 5


def test_flood_stores_no_more_than_three_honest_monitors_would() -> None:
    """Two results a second for six hours, in which an honest monitor measures the pair 40 times."""
    assert StoredPair(540).stored_of(step / 2 for step in range(2 * 6 * 3600)) <= 120


@pytest.mark.parametrize("step", [1, 60, 1800, 3600, -1, -60, -1800, -3600])
def test_forged_results_of_a_candidates_last_day_are_bounded(step: int) -> None:
    """An honest monitor has twelve a day, and 24 can make it active. The order of arrival makes no difference."""
    pair = StoredPair(7200)
    moments = range(0, 86_400, abs(step))
    assert pair.stored_of(map(float, moments if step > 0 else reversed(moments))) <= 42
    first, last = pair.times[0], pair.times[23]
    assert last - first >= timedelta(hours=10), "24 results are of nearly half a day at least"


@given(st.lists(st.integers(0, 86_400), min_size=100, max_size=300))
def test_forged_results_in_any_order_are_never_crowded(moments: list[int]) -> None:
    """Except for results that were later than all others when they arrived."""
    pair = StoredPair(7200)
    for moment in moments:
        late = not pair.times or at(moment) - pair.times[-1] >= timedelta(hours=1)
        if pair.takes(moment) and not late:
            times = pair.times
            place = times.index(at(moment))
            for first in range(max(0, place - 5), min(place + 1, len(times) - 5)):
                assert times[first + 5] - times[first] >= timedelta(hours=2)


def test_bounds_of_both_limits_are_exact() -> None:
    newest, interval = at(100_000), timedelta(seconds=540)
    near = [at(0)] * 5
    for far in (540, -540):
        assert not is_too_soon(at(far), newest, interval, near)
        assert is_too_soon(at(far - far // abs(far)), newest, interval, near)
    assert not is_too_soon(at(0), newest, interval, near[:4])
    assert is_too_soon(at(300), newest, interval, [at(0)] * 3 + [at(539)] * 2)
    assert not is_too_soon(at(300), newest, interval, [at(0)] * 3 + [at(540)] * 2)
    many = [at(205 * step) for step in range(21)]
    assert not is_too_soon(at(4320), newest, interval, many)
    assert is_too_soon(at(4319), newest, interval, many)
    assert is_too_soon(at(2000), newest, interval, many)
    assert not is_too_soon(at(2000), newest, interval, many[1:])


def test_result_half_an_interval_after_all_others_is_never_too_soon() -> None:
    assert not is_too_soon(at(270), at(0), timedelta(seconds=540), [at(0)] * 99)
    assert is_too_soon(at(269), at(0), timedelta(seconds=540), [at(0)] * 99)
    assert not is_too_soon(at(0), None, timedelta(seconds=540), [])


@given(st.integers(-30_000, 30_000), st.sampled_from(["active", "testing", "candidate", "paused"]))
def test_results_that_need_no_look_up_are_never_too_soon(seconds: int, status: str) -> None:
    told = intervals_of_status(Intervals())
    if not may_be_too_soon(at(seconds), at(0), status, told):  # type: ignore[arg-type]
        for had in (["active"], ["testing", "candidate"], ["candidate"], [status]):
            of = shortest([status, *had], told)  # type: ignore[list-item]
            assert not is_too_soon(at(seconds), at(0), of, [at(0)] * 99)


# ---- which interval ------------------------------------------------------------------------------------------------


def in_seconds(intervals: Intervals, *, changed: bool = False) -> dict[str, float]:
    return {status: pace.total_seconds() for status, pace in intervals_of_status(intervals, changed=changed).items()}


def test_interval_in_force_applies_but_is_capped_at_the_default() -> None:
    assert in_seconds(Intervals()) == DEFAULT
    faster = Intervals(interval_active=2, interval_testing=2.5, interval_candidate=3)
    assert in_seconds(faster) == {"active": 2, "testing": 2.5, "candidate": 3}
    slower = Intervals(interval_active=1200, interval_testing=86_400, interval_candidate=86_400)
    assert in_seconds(slower) == DEFAULT


def test_interval_is_at_most_a_minute_after_a_change() -> None:
    assert in_seconds(Intervals(), changed=True) == {"active": 60, "testing": 60, "candidate": 60}
    faster = Intervals(interval_active=2, interval_testing=2.5)
    assert in_seconds(faster, changed=True) == {"active": 2, "testing": 2.5, "candidate": 60}


@pytest.mark.parametrize(
    ("created", "modified", "changed"),
    [
        (timedelta(0), timedelta(0), False),
        (timedelta(0), timedelta(seconds=59), False),
        (timedelta(days=30), timedelta(days=2, hours=23), True),
        (timedelta(days=30), timedelta(days=3), True),
        (timedelta(days=30), timedelta(days=3, minutes=2), False),
        (timedelta(days=30), timedelta(0), True),
    ],
)
def test_change_matters_as_long_as_agents_keep_their_spools(
    created: timedelta, modified: timedelta, changed: bool
) -> None:
    """The times are ages of the row; a row that was never modified is not a change, since it replaces the defaults."""
    made = NOON - max(created, modified)
    assert were_changed(made, NOON - min(created, modified), NOON) is changed


def test_shortest_interval_of_all_statuses_of_a_pair_applies() -> None:
    told = intervals_of_status(Intervals())
    assert shortest(["candidate"], told) == timedelta(seconds=7200)
    assert shortest(["candidate", "testing", "paused"], told) == timedelta(seconds=2700)
    assert shortest(["candidate", "active"], told) == timedelta(seconds=540)
    assert shortest(["paused"], told) == timedelta(seconds=540)


def test_overlapping_windows_are_merged() -> None:
    interval = timedelta(seconds=100)
    assert windows([at(0)], interval) == [Window(at(-800), at(800))]
    assert windows([at(4000), at(700), at(0)], interval) == [Window(at(-800), at(1500)), Window(at(3200), at(4800))]
    assert windows([], interval) == []

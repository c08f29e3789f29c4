"""Test when probes happen: evenly spread, never overlapping, and never too close to the previous one."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.schedule import JITTER, Schedule, first_slot, monitor_number, phase, slot
from testbed.random_inputs import examples

WALL_AHEAD = 1_700_000_000.0
MONITOR = monitor_number("one.test.mon.example")
INTERVALS = st.sampled_from([1.0, 2.0, 5.0, 540.0, 2700.0, 7200.0])
SERVERS = st.integers(1, 10**7)
MONITORS = st.integers(0, 2**64 - 1)


def schedule(*pairs: tuple[int, float], now: float = 0.0) -> Schedule:
    made = Schedule(MONITOR, WALL_AHEAD)
    for server_id, interval in pairs:
        made.put(server_id, interval, now)
    return made


def run(plan: Schedule, until: float, takes: float = 0.0) -> list[tuple[float, int]]:
    """Return the start of every probe. Each takes ``takes`` seconds, and any number may run at once."""
    began: list[tuple[float, int]] = []
    ends: list[tuple[float, int]] = []
    while True:
        due = plan.next_due()
        ending = min(ends, default=None)
        if ending is not None and (due is None or ending[0] <= due):
            ends.remove(ending)
            plan.done(ending[1], ending[0])
            continue
        if due is None or due > until:
            return began
        server_id = plan.pop(due)
        assert server_id is not None
        began.append((due, server_id))
        ends.append((due + takes, server_id))


@given(SERVERS, MONITORS)
def test_a_phase_is_a_fraction_and_always_the_same(server_id: int, monitor: int) -> None:
    assert 0 <= phase(server_id, monitor) < 1
    assert phase(server_id, monitor) == phase(server_id, monitor)


def test_a_monitors_number_does_not_depend_on_the_process() -> None:
    assert monitor_number("uspao1-21wase0.test.mon.ntppool.dev") == 0x5619E9892ADFB53C
    assert monitor_number("a.test.mon.example") != monitor_number("b.test.mon.example")


@given(st.integers(-5, 10**9), INTERVALS, SERVERS, MONITORS)
def test_a_slot_is_within_the_jitter_of_its_phase(number: int, interval: float, server_id: int, monitor: int) -> None:
    exact = (number + phase(server_id, monitor)) * interval
    assert abs(slot(number, interval, server_id, monitor) - exact) <= JITTER * interval + 1e-6


@given(st.floats(0, 4e9), INTERVALS, SERVERS, MONITORS)
def test_first_slot_is_at_or_soon_after_the_given_time(
    not_before: float, interval: float, server_id: int, monitor: int
) -> None:
    at = first_slot(not_before, interval, server_id, monitor)
    assert not_before <= at <= not_before + (1 + 2 * JITTER) * interval
    assert first_slot(at, interval, server_id, monitor) == at


def largest_gap(phases: list[float]) -> float:
    ordered = sorted(phases)
    return max(b - a for a, b in zip(ordered, [*ordered[1:], ordered[0] + 1], strict=True))


def test_the_servers_of_a_monitor_are_spread() -> None:
    assert largest_gap([phase(server_id, MONITOR) for server_id in range(1, 1001)]) < 0.012


def test_the_monitors_of_a_server_are_spread() -> None:
    for server_id in range(1, 20):
        phases = [phase(server_id, monitor_number(f"m{i}.test.mon.example")) for i in range(60)]
        assert largest_gap(phases) < 0.25


def test_golden_ratio_spreads_consecutive_numbers_evenly() -> None:
    gaps = [largest_gap([phase(7, monitor) for monitor in range(n)]) * n for n in range(2, 60)]
    assert max(gaps) < 2.2


def test_server_is_probed_once_per_interval_with_jitter() -> None:
    times = [at for at, _ in run(schedule((1, 540.0)), 540.0 * 200)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == pytest.approx(200, abs=1)
    assert all(540 * 0.9 <= gap <= 540 * 1.1 for gap in gaps)
    assert statistics.stdev(gaps) > 10


@given(st.lists(st.tuples(SERVERS, INTERVALS), min_size=1, max_size=8, unique_by=lambda p: p[0]), st.floats(0, 20))
@examples(60)
def test_probes_of_a_pair_never_overlap_however_long_they_take(pairs: list[tuple[int, float]], takes: float) -> None:
    by_server: dict[int, list[float]] = {}
    for at, server_id in run(schedule(*pairs), 100.0, takes):
        by_server.setdefault(server_id, []).append(at)
    intervals = dict(pairs)
    for server_id, times in by_server.items():
        for a, b in itertools.pairwise(times):
            assert b - a >= takes
            assert b - a >= intervals[server_id] / 2


@given(INTERVALS, INTERVALS, SERVERS, st.floats(0, 1))
def test_probe_after_a_change_is_at_least_half_an_interval_later(
    before: float, after: float, server_id: int, when: float
) -> None:
    plan = schedule((server_id, before))
    last = plan.next_due()
    assert last is not None
    assert plan.pop(last) == server_id
    plan.done(server_id, last)
    changed = last + when * before / 2
    plan.put(server_id, after, changed)
    due = plan.next_due()
    assert due is not None
    assert due >= changed
    if before != after:
        assert last + after / 2 <= due + 1e-6
        assert due <= max(changed, last + after / 2) + (1 + 2 * JITTER) * after


def test_reassigned_server_is_not_probed_again_at_once() -> None:
    plan = schedule((1, 540.0))
    last = plan.next_due()
    assert last is not None
    plan.pop(last)
    plan.done(1, last)
    plan.drop_all()
    assert plan.next_due() is None
    plan.put(1, 540.0, last + 1)
    due = plan.next_due()
    assert due is not None
    assert due >= last + 270


def test_server_reassigned_during_its_probe_waits_for_its_end() -> None:
    plan = schedule((1, 2.0))
    began = plan.next_due()
    assert began is not None
    plan.pop(began)
    plan.drop(1)
    plan.put(1, 5.0, began + 0.1)
    assert plan.next_due() is None
    plan.done(1, began + 3)
    due = plan.next_due()
    assert due is not None
    assert due >= began + 3


def test_dropped_server_is_not_due() -> None:
    plan = schedule((1, 2.0), (2, 2.0))
    plan.drop(1)
    assert {server_id for _, server_id in run(plan, 20.0)} == {2}


def test_a_restart_neither_repeats_nor_skips_a_slot() -> None:
    """Slots are the same in a new process, so the next one does not depend on when the process started."""
    times = [at for at, _ in run(schedule((1, 540.0)), 540.0 * 20)]
    for a, b in itertools.pairwise(times):
        restarted = schedule((1, 540.0), now=a + 0.001)
        assert restarted.next_due() == pytest.approx(b, abs=1e-3)


@given(st.floats(-1e6, 1e6))
def test_clock_step_moves_the_slots_but_keeps_the_minimum_distance(step: float) -> None:
    plan = schedule((1, 540.0))
    last = plan.next_due()
    assert last is not None
    plan.pop(last)
    plan.done(1, last)
    plan.rebuild(WALL_AHEAD + step, last + 1)
    due = plan.next_due()
    assert due is not None
    assert last + 270 <= due <= last + 270 + 540 * (1 + 2 * JITTER)


def test_many_changes_do_not_grow_the_heap() -> None:
    plan = schedule((1, 540.0), (2, 540.0))
    for turn in range(10_000):
        plan.put(1, 540.0 + turn % 2, 0.0)
    assert len(plan._heap) < 100
    assert plan.next_due() is not None


def test_server_being_probed_is_not_due_however_often_others_change() -> None:
    plan = schedule((1, 540.0))
    due = plan.next_due()
    assert due is not None and plan.pop(due) == 1
    plan.put(2, 540.0, due)
    for turn in range(1_000):
        plan.put(2, 540.0 + turn % 2, due)
    plan.drop(2)
    assert plan.next_due() is None


def test_at_most_5000_unassigned_servers_are_remembered() -> None:
    plan = schedule()
    for server_id in range(1, 6_001):
        plan.put(server_id, 1.0, 0.0)
        due = plan.next_due()
        assert due is not None and plan.pop(due) == server_id
        plan.done(server_id, due)
        plan.drop(server_id)
    assert len(plan._last) == 5_000
    plan.put(6_000, 7200.0, 10.0)
    plan.put(1, 7200.0, 10.0)
    assert 1 not in plan._last and 6_000 in plan._last, "the oldest are forgotten"

"""Test how monitors are judged and ranked, and by how much one must be better to replace another."""

import itertools
import random

import pytest

from selector.rules.model import Health, Monitor, Settings
from selector.rules.ranking import beats, health, priority, sort_key
from testbed.selection.worlds import monitor, scene


@pytest.mark.parametrize(
    ("rtt", "step", "points"),
    [
        (50.0, 1.0, 50),
        (50.0, 0.5, 100),
        (50.0, 0.0, 150),
        (50.0, -1.0, 250),
        (0.0, 1.0, 0),
        (10.4, 1.0, 10),
        (10.5, 1.0, 11),  # halves up, whatever the parity
        (11.5, 1.0, 12),
        (None, 1.0, None),
        (50.0, None, None),
    ],
)
def test_priority_is_the_rtt_increased_by_bad_steps(rtt: float, step: float, points: int) -> None:
    assert priority(monitor(avg_rtt_ms=rtt, avg_step=step)) == points


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"avg_step": 0.0}, Health.HEALTHY),
        ({"avg_step": -0.0001}, Health.UNHEALTHY),
        ({"avg_step": -5.0, "avg_rtt_ms": None}, Health.UNHEALTHY),
        ({"count": 0, "avg_step": None, "avg_rtt_ms": None}, Health.UNKNOWN),
        ({"gone": True, "avg_step": 1.0}, Health.UNKNOWN),
        ({"gone": True, "avg_step": -5.0}, Health.UNKNOWN),
    ],
)
def test_health_follows_from_step_results_and_presence(values: dict[str, object], expected: Health) -> None:
    assert health(monitor(**values)) is expected


BEST_FIRST = [
    monitor(9, avg_rtt_ms=10.0, avg_step=1.0),
    monitor(8, avg_rtt_ms=12.0, avg_step=1.0),
    monitor(7, avg_rtt_ms=5.0, avg_step=0.0),  # 15 points
    monitor(5, avg_rtt_ms=20.0, avg_step=1.0),  # 20 points, and the higher step
    monitor(6, avg_rtt_ms=10.0, avg_step=0.5),  # 20 points
    monitor(4, avg_rtt_ms=30.1, avg_step=1.0),  # 30 points, and the lower rtt
    monitor(3, avg_rtt_ms=30.2, avg_step=1.0),
    monitor(1, avg_rtt_ms=40.0, avg_step=1.0),  # alike: the lower id
    monitor(2, avg_rtt_ms=40.0, avg_step=1.0),
    monitor(10, avg_rtt_ms=None, avg_step=1.0),
    monitor(12, gone=True, avg_rtt_ms=1.0, avg_step=1.0),
    monitor(11, count=0, avg_rtt_ms=None, avg_step=None),
    monitor(13, avg_rtt_ms=1.0, avg_step=-0.1),
    monitor(14, avg_rtt_ms=None, avg_step=-5.0),
]


def test_monitors_are_ordered_by_health_priority_step_rtt_and_id() -> None:
    mixed = BEST_FIRST.copy()
    random.Random(1).shuffle(mixed)
    assert sorted(mixed, key=_key) == BEST_FIRST
    assert [entry.monitor for entry in scene(*mixed).review().world.entries] == BEST_FIRST


def test_no_two_monitors_tie() -> None:
    assert all(_key(one) != _key(other) for one, other in itertools.combinations(BEST_FIRST, 2))


def _key(one: Monitor) -> object:
    return sort_key(one, health(one), priority(one))


@pytest.mark.parametrize(
    ("points", "other", "better"),
    [
        (95, 100, True),  # 5 points and 5 %
        (96, 100, False),
        (45, 50, True),  # 5 points are 10 %
        (46, 50, False),  # 4 points are 8 %
        (189, 200, True),
        (190, 200, True),  # 10 points are 5 %
        (191, 200, False),  # 9 points are less than 5 %
        (0, 5, True),
        (0, 4, False),
        (100, 100, False),
        (105, 100, False),
        (100, None, True),
        (None, 100, False),
        (None, None, False),
    ],
)
def test_a_swap_needs_5_points_and_5_percent(points: int | None, other: int | None, better: bool) -> None:
    assert beats(points, Health.HEALTHY, other, Settings()) is better


@pytest.mark.parametrize("other", [Health.UNKNOWN, Health.UNHEALTHY])
def test_no_margin_is_needed_against_a_monitor_that_is_not_healthy(other: Health) -> None:
    assert beats(500, other, 1, Settings())

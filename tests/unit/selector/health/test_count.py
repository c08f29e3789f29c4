"""Test which hour is counted next."""

from datetime import datetime, timedelta

import pytest

from selector.health.count import last_hour, next_hour

NOON = datetime(2026, 3, 1, 12)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(("minute", "hour"), [(0, 10), (9, 10), (10, 11), (59, 11)])
def test_hour_is_counted_ten_minutes_after_its_end(minute: int, hour: int) -> None:
    assert last_hour(NOON + timedelta(minutes=minute)) == NOON.replace(hour=hour)


def test_hours_are_counted_one_after_the_other_up_to_the_last_one() -> None:
    assert next_hour(NOON - HOUR, NOON) == NOON - HOUR
    assert next_hour(NOON, NOON) == NOON
    assert next_hour(NOON + HOUR, NOON) is None


def test_a_day_is_counted_at_first_and_after_a_long_pause() -> None:
    assert next_hour(None, NOON) == NOON - 23 * HOUR
    assert next_hour(NOON - 100 * HOUR, NOON) == NOON - 23 * HOUR


def test_count_with_a_clock_that_was_ahead_does_not_stop_it() -> None:
    assert next_hour(NOON + 1_000 * HOUR, NOON) == NOON

"""Test which hours count for the attendance of monitors."""

from datetime import datetime, timedelta

from selector.health.facts import HOUR, Attendance, attendance, counted_hours, outages

END = datetime(2026, 3, 1, 12)
HOURS = [END - HOUR * (n + 1) for n in range(24)]


def test_hour_without_most_of_the_monitors_is_an_outage_of_the_pool() -> None:
    found = dict.fromkeys(HOURS, 60) | {HOURS[3]: 29, HOURS[4]: 30}
    assert outages(found) == {HOURS[3]}
    assert counted_hours(found) == sorted(set(HOURS) - {HOURS[3]})


def test_pool_without_hours_has_no_outages() -> None:
    assert outages({}) == frozenset()


def test_hours_before_the_first_one_of_a_monitor_do_not_count() -> None:
    counted, begin = sorted(HOURS), END - timedelta(days=1)
    assert attendance(5, counted, HOURS[5], begin, END) == Attendance(5, 6)
    assert attendance(23, counted, END - timedelta(days=9), begin, END) == Attendance(23, 24)
    assert attendance(0, counted, None, begin, END) == Attendance(0, 0)
    assert attendance(0, counted, HOURS[0], begin, END - HOUR) == Attendance(0, 0)

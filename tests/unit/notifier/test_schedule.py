"""Test what a channel is told when: quiet hours, one message per interval, retries."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from notifier.model import Key
from notifier.schedule import KEEP_TRYING, RETRY, Pending, due_now, next_attempt, parse_quiet

DAY = datetime(2026, 7, 2, 12, 0, 0)
NIGHT = parse_quiet("22:00-07:00", ZoneInfo("Europe/Amsterdam"))  # 20:00 to 05:00 UTC in summer
EVERY = timedelta(minutes=10)


def pending(number: int, at: datetime, raised: bool, subject: str = "1") -> Pending:
    return Pending(number, Key("server-low", subject), raised, f"title {number}", f"text {number}", at)


def sent(changes: list[Pending], now: datetime, sent_on: datetime | None = None, quiet: bool = True) -> list[int]:
    due = due_now(changes, now, quiet=NIGHT if quiet else None, every=EVERY, sent_on=sent_on)
    return [one.id for one in due.send]


def dropped(changes: list[Pending], now: datetime) -> list[int]:
    return [one.id for one in due_now(changes, now, quiet=NIGHT, every=EVERY, sent_on=None).drop]


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        (datetime(2026, 7, 2, 19, 59, 59), False),
        (datetime(2026, 7, 2, 20, 0, 0), True),
        (datetime(2026, 7, 3, 4, 59, 59), True),
        (datetime(2026, 7, 3, 5, 0, 0), False),
        (datetime(2026, 1, 2, 20, 59, 59), False),
        (datetime(2026, 1, 2, 21, 0, 0), True),
    ],
)
def test_quiet_hours_are_in_local_time_and_may_span_midnight(moment: datetime, inside: bool) -> None:
    assert NIGHT.contain(moment) is inside


def test_quiet_hours_within_a_day() -> None:
    noon = parse_quiet("12:00-13:30", ZoneInfo("UTC"))
    assert [noon.contain(DAY + timedelta(minutes=n)) for n in (-1, 0, 89, 90)] == [False, True, True, False]


@pytest.mark.parametrize("text", ["", "22-7", "22:00", "24:00-07:00", "22:60-07:00", "7:00-8:00", "07:00-07:00", "x"])
def test_other_forms_of_quiet_hours_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_quiet(text, ZoneInfo("UTC"))


def test_nothing_is_sent_within_quiet_hours() -> None:
    night = datetime(2026, 7, 2, 23, 0, 0)
    assert sent([pending(1, DAY, True), pending(2, night, True, "2")], night) == []


def test_what_is_raised_and_cleared_within_quiet_hours_is_never_sent() -> None:
    night, morning = datetime(2026, 7, 2, 23, 0, 0), datetime(2026, 7, 3, 5, 0, 0)
    both = [pending(1, night, True), pending(2, night + timedelta(hours=1), False)]
    assert (sent(both, morning), dropped(both, morning)) == ([], [1, 2])


def test_what_is_still_raised_at_the_end_of_quiet_hours_is_sent() -> None:
    night, morning = datetime(2026, 7, 2, 23, 0, 0), datetime(2026, 7, 3, 5, 0, 0)
    hour = timedelta(hours=1)
    changes = [pending(1, night, True), pending(2, night + hour, False), pending(3, night + 2 * hour, True)]
    assert (sent(changes, morning), dropped(changes, morning)) == ([3], [1, 2])
    assert sent([pending(1, night, True)], morning) == [1]


def test_a_clear_of_what_was_told_before_is_sent_after_quiet_hours() -> None:
    night, morning = datetime(2026, 7, 2, 23, 0, 0), datetime(2026, 7, 3, 5, 0, 0)
    assert sent([pending(2, night, False)], morning) == [2]


def test_changes_of_the_day_are_sent_in_their_order_even_if_later_ones_undid_them() -> None:
    changes = [pending(1, DAY, True), pending(2, DAY, True, "2"), pending(3, DAY + timedelta(hours=1), False)]
    assert sent(changes, DAY + timedelta(hours=2)) == [1, 2, 3]


def test_the_first_message_is_sent_at_once_and_the_next_one_after_the_interval() -> None:
    one = [pending(1, DAY, True)]
    assert sent(one, DAY) == [1]
    assert sent(one, DAY, sent_on=DAY - EVERY + timedelta(seconds=1)) == []
    assert sent(one, DAY, sent_on=DAY - EVERY) == [1]


def test_a_clock_that_was_set_back_does_not_silence_a_channel() -> None:
    assert sent([pending(1, DAY, True)], DAY, sent_on=DAY + timedelta(days=365)) == [1]


def test_changes_that_waited_for_a_week_are_dropped() -> None:
    changes = [pending(1, DAY, True), pending(2, DAY + timedelta(days=1), False)]
    now = DAY + KEEP_TRYING + timedelta(hours=1)
    assert (sent(changes, now), dropped(changes, now)) == ([2], [1])


def test_a_channel_that_works_again_gets_its_message_within_a_quarter_of_an_hour() -> None:
    waits = [next_attempt(DAY, attempts) - DAY for attempts in range(1, 700)]
    assert max(waits) <= timedelta(minutes=15)
    assert waits[0] <= timedelta(seconds=RETRY.first_seconds)
    assert min(waits[10:]) >= timedelta(minutes=10)

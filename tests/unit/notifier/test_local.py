"""Test the alerts that are kept in a file: restarts within an outage, several processes, and a file that fails."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from notifier.addresses import Sealed
from notifier.channels import Channel
from notifier.local import MOST_PENDING, LocalAlerts
from notifier.model import Fact, Key
from notifier.rules import BROKER_AWAY, DATABASE_AWAY
from notifier.schedule import KEEP_TRYING

NOW = datetime(2026, 1, 2, 12, 0, 0)
MINUTE = timedelta(minutes=1)
LEASE = timedelta(minutes=4)


def channel(number: int = 1, *, account_id: int | None = None, every: timedelta = timedelta(0)) -> Channel:
    sealed = Sealed(text="sealed", salt="salt")
    about = frozenset({"pool"})
    return Channel(
        id=number,
        account_id=account_id,
        kind="mail",
        sealed=sealed,
        shown="x",
        about=about,
        quiet=None,
        zone="UTC",
        every=every,
    )


def facts(database: bool | None = False, broker: bool | None = False) -> list[Fact]:
    return [
        Fact(key=Key(kind, "host"), bad=bad, name="host", detail="refused")
        for kind, bad in ((DATABASE_AWAY, database), (BROKER_AWAY, broker))
    ]


def opened(directory: Path) -> LocalAlerts:
    alerts = LocalAlerts(directory / "notifier.json", "test")
    assert alerts.acquire()
    return alerts


def after_minutes(alerts: LocalAlerts, seen: Sequence[bool], begin: datetime = NOW) -> list[tuple[int, bool]]:
    """Return the changes: their minute, and whether the database's alert was raised. One fact per minute."""
    return [
        (minute, change.raised)
        for minute, bad in enumerate(seen)
        for change in alerts.observe(facts(bad), begin + minute * MINUTE)
    ]


def sent(alerts: LocalAlerts, now: datetime, failure: str | None = None) -> list[str]:
    """Send all due messages; return their titles."""
    titles = []
    while (message := alerts.claim(now, LEASE)) is not None:
        alerts.record(message, failure, now)
        titles.append(message.title)
    return titles


@pytest.fixture
def alerts(tmp_path: Path) -> LocalAlerts:
    alerts = opened(tmp_path)
    alerts.set_channels([channel()])
    return alerts


def restarted(alerts: LocalAlerts, directory: Path) -> LocalAlerts:
    alerts.release()
    return opened(directory)


def test_an_outage_is_told_once_and_its_end_once(alerts: LocalAlerts) -> None:
    assert after_minutes(alerts, [True] * 30 + [False] * 30) == [(2, True), (32, False)]
    assert sent(alerts, NOW + 60 * MINUTE) == ["[NTP Pool, test] Database away from host"]
    alerts.observe(facts(), NOW + 60 * MINUTE)
    assert sent(alerts, NOW + 60 * MINUTE) == ["[NTP Pool, test] Database reached again by host"]


def test_a_restart_within_an_outage_neither_repeats_nor_forgets(alerts: LocalAlerts, tmp_path: Path) -> None:
    assert after_minutes(alerts, [True] * 5) == [(2, True)]
    assert len(sent(alerts, NOW + 5 * MINUTE)) == 1
    alerts = restarted(alerts, tmp_path)
    assert after_minutes(alerts, [True] * 30, NOW + 5 * MINUTE) == []
    assert sent(alerts, NOW + 40 * MINUTE) == []
    alerts = restarted(alerts, tmp_path)
    assert after_minutes(alerts, [False] * 5, NOW + 40 * MINUTE) == [(2, False)]
    assert sent(alerts, NOW + 45 * MINUTE) == ["[NTP Pool, test] Database reached again by host"]


def test_a_restart_before_an_alert_does_not_delay_it(alerts: LocalAlerts, tmp_path: Path) -> None:
    assert after_minutes(alerts, [True] * 2) == []
    assert after_minutes(restarted(alerts, tmp_path), [True], NOW + 2 * MINUTE) == [(0, True)]


def test_a_kill_between_sending_and_recording_repeats_the_message_with_its_key(
    alerts: LocalAlerts, tmp_path: Path
) -> None:
    after_minutes(alerts, [True] * 3)
    now = NOW + 3 * MINUTE
    first = alerts.claim(now, LEASE)
    alerts = restarted(alerts, tmp_path)
    assert first is not None
    assert alerts.claim(now, LEASE) is None
    second = alerts.claim(now + LEASE, LEASE)
    assert second is not None
    assert (second.key, second.body, second.attempts) == (first.key, first.body, 2)


def test_a_message_that_fails_is_tried_again_for_days_and_changes_follow_in_one_message(alerts: LocalAlerts) -> None:
    after_minutes(alerts, [True] * 3)
    day = NOW + timedelta(days=1)
    assert len(sent(alerts, NOW + 3 * MINUTE, failure="refused")) == 1
    assert sent(alerts, NOW + 3 * MINUTE, failure="refused") == []
    after_minutes(alerts, [False] * 3 + [True] * 3, NOW + 10 * MINUTE)
    assert sent(alerts, day) == ["[NTP Pool, test] Database away from host"]
    alerts.observe(facts(True), day)
    assert sent(alerts, day) == ["[NTP Pool, test] 2 alerts: 1 raised, 1 cleared"]


def test_a_clock_that_was_set_back_keeps_no_message_waiting(alerts: LocalAlerts) -> None:
    after_minutes(alerts, [True] * 3)
    assert len(sent(alerts, NOW + 3 * MINUTE, failure="refused")) == 1
    assert sent(alerts, NOW - timedelta(hours=1)) == ["[NTP Pool, test] Database away from host"]


def test_a_message_is_given_up_after_a_week(alerts: LocalAlerts) -> None:
    after_minutes(alerts, [True] * 3)
    late = NOW + KEEP_TRYING + timedelta(hours=1)
    assert len(sent(alerts, late, failure="refused")) == 1
    assert sent(alerts, late + timedelta(days=1)) == []


def test_causes_at_the_same_time_are_one_message(alerts: LocalAlerts) -> None:
    for minute in range(3):
        alerts.observe(facts(True, True), NOW + minute * MINUTE)
    assert sent(alerts, NOW + 3 * MINUTE) == ["[NTP Pool, test] 2 alerts: 2 raised"]


def test_only_channels_of_operators_are_kept(alerts: LocalAlerts) -> None:
    alerts.set_channels([channel(1), channel(2, account_id=7)])
    assert [one.id for one in alerts.channels] == [1]


def test_what_waits_for_a_removed_channel_is_dropped(alerts: LocalAlerts) -> None:
    after_minutes(alerts, [True] * 3)
    alerts.set_channels([])
    assert sent(alerts, NOW + 10 * MINUTE) == []


def test_one_process_of_a_host_does_the_work_until_it_ends(alerts: LocalAlerts, tmp_path: Path) -> None:
    second = LocalAlerts(tmp_path / "notifier.json", "test")
    after_minutes(alerts, [True] * 5)
    assert not second.acquire()
    second.set_channels([])
    alerts.release()
    assert second.acquire()
    assert after_minutes(second, [True] * 5, NOW + 5 * MINUTE) == []


def test_the_file_is_private_and_the_outbox_bounded(alerts: LocalAlerts, tmp_path: Path) -> None:
    after_minutes(alerts, [True] * 3)
    assert alerts.claim(NOW + 3 * MINUTE, timedelta(days=6)) is not None
    after_minutes(alerts, ([False] * 3 + [True] * 3) * MOST_PENDING, NOW + 10 * MINUTE)
    path = tmp_path / "notifier.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 64 * 1024


def test_alerts_are_sent_although_the_file_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alerts = LocalAlerts(tmp_path / "missing" / "notifier.json", "test")
    assert alerts.acquire()
    alerts.set_channels([channel()])
    assert after_minutes(alerts, [True] * 3) == [(2, True)]
    assert len(sent(alerts, NOW + 3 * MINUTE)) == 1
    assert "may repeat alerts" in caplog.text


def test_a_broken_file_is_reported_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "notifier.json").write_text("{broken")
    alerts = opened(tmp_path)
    assert "cannot be read" in caplog.text
    alerts.set_channels([channel()])
    assert after_minutes(alerts, [True] * 3) == [(2, True)]

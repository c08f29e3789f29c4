"""Test presence: the same row, however messages are repeated, retained, or split among workers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.last_seen import LastSeen, Seen
from ingest.messages import Presence
from ingest.presence import PresenceQueue, Present, merge, plausible
from schema.messages import Status, encode
from testbed.fixtures.manual_clock import ManualClock

NAME = "nlams1.devel.mon.example"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    """Return a time as the ledger stores it."""
    return (NOON + seconds * SECOND).replace(tzinfo=None)


def online(written: float, arrived: float | None = None, *, retained: bool = False, version: str = "1") -> Presence:
    status = Status(online=True, ts=NOON + written * SECOND, version=version)
    return Presence(NAME, status, NOON + (written if arrived is None else arrived) * SECOND, retained)


def goodbye(written: float) -> Presence:
    return Presence(NAME, Status(online=False, ts=NOON + written * SECOND), NOON + written * SECOND, retained=False)


def will(arrived: float, *, retained: bool = False) -> Presence:
    return Presence(NAME, Status(online=False), NOON + arrived * SECOND, retained)


def settle(*presences: Presence, row: Present | None = None) -> Present | None:
    for presence in presences:
        row = merge(row, presence) or row
    return row


def state(row: Present | None) -> tuple[bool, datetime, datetime] | None:
    return None if row is None else (row.online, row.since, row.seen)


@pytest.mark.parametrize(
    ("presences", "expected"),
    [
        ([online(0)], (True, at(0), at(0))),
        ([online(0), online(300)], (True, at(0), at(300))),
        ([online(0), will(330)], (False, at(330), at(330))),
        ([online(0), goodbye(10)], (False, at(10), at(10))),
        ([online(0), will(330), online(400)], (True, at(400), at(400))),
        ([will(330), will(700)], (False, at(330), at(700))),
        # The agent's clock was set back.
        ([online(0), online(-5000, 300)], (True, at(0), at(300))),
        # Retained: as old as its own time, if it contains one.
        ([online(-3600, 0, retained=True)], (True, at(-3600), at(-3600))),
        ([online(50, 0, retained=True)], (True, at(0), at(0))),
        ([will(0, retained=True)], (False, at(0), at(0))),
        # Ingest was down meanwhile, and the broker delivers the latest status.
        ([online(0), online(600, 1000, retained=True)], (True, at(0), at(600))),
        ([online(0), will(1000, retained=True)], (False, at(1000), at(1000))),
        ([goodbye(0), online(600, 1000, retained=True)], (True, at(600), at(600))),
        # Ingest was not down: the retained status is already known.
        ([online(0), online(300), online(300, 1000, retained=True)], (True, at(0), at(300))),
        ([online(0), will(330), will(1000, retained=True)], (False, at(330), at(330))),
        # The broker was restarted with an old state.
        ([online(0), online(300), online(0, 1000, retained=True)], (True, at(0), at(300))),
        ([online(0), will(330), online(0, 1000, retained=True)], (False, at(330), at(330))),
        # Written late by another worker.
        ([online(300), will(200)], (True, at(300), at(300))),
    ],
)
def test_presence_follows_from_the_sequence_of_statuses(
    presences: list[Presence], expected: tuple[bool, datetime, datetime]
) -> None:
    assert state(settle(*presences)) == expected


def test_row_written_by_a_fast_clock_is_overridden() -> None:
    row = settle(online(0))
    assert row is not None
    future = replace(row, seen=row.seen + timedelta(hours=2), since=row.since + timedelta(hours=2))
    said = online(10)
    again = settle(said, row=plausible(replace(future, status=encode(said.status).decode()), at(5)))
    assert state(again) == (True, at(5), at(10)), "also with the same words"
    assert state(settle(will(20), row=plausible(future, at(20)))) == (False, at(20), at(20))
    assert state(settle(online(10, 20, retained=True), row=plausible(future, at(20)))) == (True, at(20), at(10))
    near = replace(row, seen=at(60))
    assert plausible(near, at(0)) == near, "a minute is within what clocks may differ"
    assert plausible(replace(row, seen=at(60.001)), at(0)) != near


def test_agent_without_a_time_in_its_status_is_seen_anyway() -> None:
    silent = Presence(NAME, Status(online=True), NOON, retained=False)
    again = Presence(NAME, Status(online=True), NOON + 300 * SECOND, retained=False)
    assert state(settle(silent, again)) == (True, at(0), at(300))


moments = st.integers(0, 2000).map(float)
live = st.builds(online, moments) | st.builds(will, moments) | st.builds(goodbye, moments)
histories = st.lists(live, max_size=8).map(lambda messages: sorted(messages, key=lambda m: m.arrived))


@given(histories)
def test_last_status_determines_the_presence(history: list[Presence]) -> None:
    row = settle(*history)
    if history:
        assert row is not None
        assert row.online == history[-1].status.online
        assert row.since <= row.seen


@given(histories)
def test_repetition_changes_nothing(history: list[Presence]) -> None:
    once = settle(*history)
    twice = settle(*[message for message in history for _ in range(2)])
    assert once == twice


@given(histories, st.data())
def test_several_workers_reach_the_same_state_as_one(history: list[Presence], data: st.DataObject) -> None:
    """Each worker receives all messages in order, and writes only its newest one, at any time."""
    row: Present | None = None
    waiting: list[Presence | None] = [None, None]
    for message in history:
        for worker in (0, 1):
            waiting[worker] = message
            if data.draw(st.booleans()):
                row, waiting[worker] = settle(message, row=row), None
    for worker in data.draw(st.permutations([0, 1])):
        last = waiting[worker]
        row = row if last is None else settle(last, row=row)
    alone = settle(*history)
    assert (row and (row.online, row.seen)) == (alone and (alone.online, alone.seen))


@given(histories, st.integers(2001, 3000))
def test_retained_status_after_a_restart_changes_nothing(history: list[Presence], restart: int) -> None:
    if not history:
        return
    row = settle(*history)
    kept = Presence(NAME, history[-1].status, NOON + restart * SECOND, retained=True)
    assert state(settle(kept, row=row)) == state(row)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr("ingest.presence.time", made)
    return made


def test_queue_keeps_the_newest_status_of_each_agent(clock: ManualClock) -> None:
    book = PresenceQueue()
    other = Presence("other", Status(online=True), NOON, retained=False)
    for presence in (online(0), other, online(1, 0)):
        book.add(presence)
    assert book.pop_all(NOON) == [online(1, 0), other]
    assert book.pop_all(NOON) == []


def test_arrival_time_follows_from_the_waiting_time_not_the_wall_clock(clock: ManualClock) -> None:
    book = PresenceQueue()
    for number, ahead in enumerate((0, -120, 7_200)):
        clock.now += 10
        book.add(replace(online(0, 10 * number + ahead), name=f"m{number}"))
    clock.now += 10
    assert [presence.arrived for presence in book.pop_all(NOON)] == [NOON - wait * SECOND for wait in (30, 20, 10)]


def test_full_queue_still_accepts_newer_statuses_of_known_agents(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr("ingest.presence.MOST_NAMES", 1)
    book = PresenceQueue()
    other = Presence("other", Status(online=True), NOON, retained=False)
    for presence in (online(0), other, online(1, 0)):
        book.add(presence)
    assert book.pop_all(NOON) == [online(1, 0)]


def test_last_seen_times_are_merged() -> None:
    book = LastSeen()
    book.add([Seen(1, at(5), submitted=at(5), version="2"), Seen(2, at(0))])
    book.add([Seen(1, at(3), submitted=None, version="")])
    assert book.pop_all() == [Seen(1, at(5), submitted=at(5), version="2"), Seen(2, at(0))]
    assert book.pop_all() == []

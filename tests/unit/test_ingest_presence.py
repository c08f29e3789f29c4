"""Who is there: the same row, however messages are repeated, kept by the broker, or split over workers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.manual_clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from ingest.decode import Presence
from ingest.presence import PresenceBook, Present, believed, merge
from ingest.sightings import Sighting, Sightings
from schema.messages import Status, encode

NAME = "nlams1.devel.mon.example"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    """As the ledger has it."""
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
        # The agent's clock went back.
        ([online(0), online(-5000, 300)], (True, at(0), at(300))),
        # Kept by the broker: as old as it says, when it says so.
        ([online(-3600, 0, retained=True)], (True, at(-3600), at(-3600))),
        ([online(50, 0, retained=True)], (True, at(0), at(0))),
        ([will(0, retained=True)], (False, at(0), at(0))),
        # We were away meanwhile, and the broker tells us the last word.
        ([online(0), online(600, 1000, retained=True)], (True, at(0), at(600))),
        ([online(0), will(1000, retained=True)], (False, at(1000), at(1000))),
        ([goodbye(0), online(600, 1000, retained=True)], (True, at(600), at(600))),
        # We were not away: it tells us what we know.
        ([online(0), online(300), online(300, 1000, retained=True)], (True, at(0), at(300))),
        ([online(0), will(330), will(1000, retained=True)], (False, at(330), at(330))),
        # It came back with an old state.
        ([online(0), online(300), online(0, 1000, retained=True)], (True, at(0), at(300))),
        ([online(0), will(330), online(0, 1000, retained=True)], (False, at(330), at(330))),
        # Written late by another worker.
        ([online(300), will(200)], (True, at(300), at(300))),
    ],
)
def test_what_is_believed(presences: list[Presence], expected: tuple[bool, datetime, datetime]) -> None:
    assert state(settle(*presences)) == expected


def test_what_a_clock_that_was_ahead_wrote_gives_way() -> None:
    row = settle(online(0))
    assert row is not None
    future = replace(row, seen=row.seen + timedelta(hours=2), since=row.since + timedelta(hours=2))
    said = online(10)
    again = settle(said, row=believed(replace(future, status=encode(said.status).decode()), at(5)))
    assert state(again) == (True, at(5), at(10)), "also with the same words"
    assert state(settle(will(20), row=believed(future, at(20)))) == (False, at(20), at(20))
    assert state(settle(online(10, 20, retained=True), row=believed(future, at(20)))) == (True, at(20), at(10))
    near = replace(row, seen=at(60))
    assert believed(near, at(0)) == near, "a minute is within what clocks may differ"
    assert believed(replace(row, seen=at(60.001)), at(0)) != near


def test_an_agent_that_tells_no_time_is_seen_all_the_same() -> None:
    silent = Presence(NAME, Status(online=True), NOON, retained=False)
    again = Presence(NAME, Status(online=True), NOON + 300 * SECOND, retained=False)
    assert state(settle(silent, again)) == (True, at(0), at(300))


moments = st.integers(0, 2000).map(float)
live = st.builds(online, moments) | st.builds(will, moments) | st.builds(goodbye, moments)
histories = st.lists(live, max_size=8).map(lambda messages: sorted(messages, key=lambda m: m.arrived))


@given(histories)
def test_the_last_word_holds(history: list[Presence]) -> None:
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
def test_several_workers_agree_with_one(history: list[Presence], data: st.DataObject) -> None:
    """Each worker is given all messages in order, and writes whenever it likes only the newest it has."""
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
def test_a_restart_with_what_the_broker_kept_changes_no_state(history: list[Presence], restart: int) -> None:
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


def test_the_book_keeps_the_newest_of_each(clock: ManualClock) -> None:
    book = PresenceBook()
    other = Presence("other", Status(online=True), NOON, retained=False)
    for presence in (online(0), other, online(1, 0)):
        book.note(presence)
    assert book.take(NOON) == [online(1, 0), other]
    assert book.take(NOON) == []


def test_a_status_arrived_as_long_ago_as_it_has_waited_whatever_our_clock_said_then(clock: ManualClock) -> None:
    book = PresenceBook()
    for number, ahead in enumerate((0, -120, 7_200)):
        clock.now += 10
        book.note(replace(online(0, 10 * number + ahead), name=f"m{number}"))
    clock.now += 10
    assert [presence.arrived for presence in book.take(NOON)] == [NOON - wait * SECOND for wait in (30, 20, 10)]


def test_a_book_that_is_full_still_takes_what_is_newer_of_those_in_it(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr("ingest.presence.MOST_NAMES", 1)
    book = PresenceBook()
    other = Presence("other", Status(online=True), NOON, retained=False)
    for presence in (online(0), other, online(1, 0)):
        book.note(presence)
    assert book.take(NOON) == [online(1, 0)]


def test_sightings_are_merged() -> None:
    book = Sightings()
    book.note([Sighting(1, at(5), submitted=at(5), version="2"), Sighting(2, at(0))])
    book.note([Sighting(1, at(3), submitted=None, version="")])
    assert book.take() == [Sighting(1, at(5), submitted=at(5), version="2"), Sighting(2, at(0))]
    assert book.take() == []

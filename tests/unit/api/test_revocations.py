"""Test which revocations are sent to the broker, with which time, and how often."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.revocation_store import KeyLife, Revoked
from api.revocations import MARGIN, WITHIN, Revocation, Revocations, find_revocations, unsent, without_key_since
from runtime.mqtt.plugin import BrokerPlugin
from runtime.mqtt.session import NotConnected, PublishRefused
from runtime.worker import Worker
from schema.messages import RevokeTokens, decode
from schema.topics import Topics
from testbed.random_inputs import examples

NOW = datetime(2026, 11, 30, 12, 0, 0, 500_000)
SINCE = NOW - WITHIN
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
LONG_AGO = (NOW - 9 * DAY).replace(microsecond=0)


def at(minutes: float) -> datetime:
    """Return the time so many minutes before :data:`NOW`."""
    return NOW - minutes * MINUTE


def key(created: datetime = LONG_AGO, *, revoked: datetime | None = None, replaced: datetime | None = None) -> KeyLife:
    return KeyLife(created.replace(microsecond=0), revoked or replaced, revoked is not None)


# --- keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lives", "expected"),
    [
        ([], None),
        ([key()], None),
        ([key(replaced=at(3))], None),
        ([key(revoked=at(3))], at(3)),
        ([key(revoked=NOW - DAY)], None),
        ([key(revoked=SINCE)], None),
        ([key(revoked=at(3)), key()], None),
        ([key(revoked=at(3)), key(replaced=at(2))], None),
        ([key(revoked=at(3)), key(replaced=at(4))], at(3)),
        ([key(revoked=at(3)), key(revoked=at(2))], at(2)),
        ([key(revoked=at(3)), key(created=at(2))], at(3)),
        ([key(revoked=at(9)), key(created=at(8), revoked=at(7)), key(created=at(6))], at(7)),
        ([key(revoked=at(9)), key(created=at(8), revoked=at(3)), key(created=at(6))], at(9)),
        ([key(revoked=at(3)), key(created=at(3))], at(3)),
        ([key(revoked=at(0))], at(0)),
        ([key(revoked=at(-1))], None),
        ([key(revoked=at(3)), key(revoked=NOW + DAY)], None),
    ],
)
def test_monitor_is_revoked_when_its_last_key_is(lives: list[KeyLife], expected: datetime | None) -> None:
    assert without_key_since(lives, SINCE) == expected
    assert without_key_since(reversed(lives), SINCE) == expected


MOMENTS = st.integers(0, 8 * 60).map(lambda minutes: at(minutes))
LIVES = st.builds(
    lambda created, ends, revoked: KeyLife(created.replace(microsecond=0), ends, revoked and ends is not None),
    MOMENTS,
    st.none() | MOMENTS,
    st.booleans(),
)


@examples(200)
@given(st.lists(LIVES, max_size=4))
def test_every_revocation_that_left_no_key_is_found(lives: list[KeyLife]) -> None:
    found = without_key_since(lives, SINCE)
    ends = [life.ends_on for life in lives if life.revoked and life.ends_on is not None and life.ends_on > SINCE]
    for end in ends:
        others = [life for life in lives if life.created_on + timedelta(seconds=1) <= end]
        if all(life.ends_on is not None and life.ends_on <= end for life in others):
            assert found is not None and found >= end
    assert found is None or found in ends


# --- all sources --------------------------------------------------------------------------------------


def test_latest_revocation_of_each_monitor_counts() -> None:
    revoked = Revoked(
        keys={"a": [key(revoked=at(3))], "b": [key(revoked=at(9))], "c": [key()], "d": [key(revoked=at(1))]},
        deleted={"b": at(2), "e": at(5), "d": at(4)},
        certificates={"f": at(6), "b": at(3)},
    )
    found = find_revocations(revoked, SINCE)
    expected = {"a": at(3), "b": at(2), "d": at(1), "e": at(5), "f": at(6)}
    assert {one.name: one.until for one in found} == {
        name: end.replace(tzinfo=UTC) + MARGIN for name, end in expected.items()
    }


def test_time_in_the_message_is_rounded_up_and_not_later_than_now() -> None:
    end = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert Revocation("a", end).message(end) == RevokeTokens(name="a", issued_until=int(end.timestamp()) + 1)
    whole = end.replace(microsecond=0)
    assert Revocation("a", whole).message(whole).issued_until == int(whole.timestamp())
    future = Revocation("a", whole + DAY)
    assert future.message(whole).issued_until == int((whole + MARGIN).timestamp()), "the broker would refuse it"


def test_only_later_revocations_are_sent_again() -> None:
    end = NOW.replace(tzinfo=UTC)
    found = [Revocation("a", end), Revocation("b", end), Revocation("c", end)]
    assert unsent(found, {"a": end, "b": end - MINUTE}) == found[1:]
    assert unsent(found, {}) == found


# --- sending ------------------------------------------------------------------------------------------


class Ledger:
    """A worker whose database answers with :attr:`revoked`, and whose broker records what it gets."""

    def __init__(self) -> None:
        self.revoked = Revoked({}, {}, {})
        self.sent: list[tuple[str, RevokeTokens]] = []
        self.errors: dict[str, Exception] = {}
        self.topics = Topics("test")
        self.engine = None
        self.broker = SimpleNamespace(publish=self._publish)
        self.plugin = BrokerPlugin()

    async def in_database(self, work: Callable[[], Any]) -> Revoked:
        return self.revoked

    async def _publish(self, topic: str, payload: bytes) -> None:
        message = decode(payload, RevokeTokens)
        if error := self.errors.get(message.name):
            raise error
        self.sent.append((topic, message))

    def names(self) -> list[str]:
        names = [message.name for _, message in self.sent]
        self.sent.clear()
        return names


async def test_each_revocation_is_sent_once_and_again_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    clock = [NOW.replace(tzinfo=UTC)]
    job = Revocations(cast(Worker, ledger), lambda: clock[0])
    await job.send()
    assert ledger.sent == []
    ledger.revoked = Revoked({"a": [key(revoked=at(3))]}, {"b": at(2), "c": at(1)}, {})
    ledger.errors["b"] = NotConnected("away")
    await job.send()
    until = at(3).replace(tzinfo=UTC) + MARGIN
    assert ledger.sent == [
        ("/test/control/broker/revocations", RevokeTokens(name="a", issued_until=int(until.timestamp()) + 1))
    ]
    assert "revocations cannot be sent: away" in caplog.text
    assert ledger.names() == ["a"], "the others would fail like b"
    ledger.errors["b"] = PublishRefused("Not authorized")
    await job.send()
    assert ledger.names() == ["c"], "another one may succeed"
    assert "revocation of b: Not authorized" in caplog.text
    ledger.errors.clear()
    for expected in (["b"], [], []):
        await job.send()
        assert ledger.names() == expected
    ledger.revoked = Revoked({"a": [key(revoked=at(0))]}, {"b": at(2), "c": at(1)}, {})
    await job.send()
    assert ledger.names() == ["a"]
    clock[0] += WITHIN
    ledger.revoked = Revoked({}, {}, {})
    await job.send()
    assert job._sent == {}, "its memory does not grow"


@pytest.mark.parametrize("present", [True, False])
async def test_warns_of_each_revocation_that_the_broker_does_not_carry_out(
    caplog: pytest.LogCaptureFixture, present: bool
) -> None:
    ledger = Ledger()
    ledger.revoked = Revoked({}, {"a": at(2), "b": at(1)}, {})
    job = Revocations(cast(Worker, ledger), lambda: NOW.replace(tzinfo=UTC))
    await job.send()
    assert "stay valid" not in caplog.text, "it is not known yet what the broker can do"
    ledger.plugin.present = present
    for _ in range(2):
        await job.send()
    warnings = [message for message in caplog.messages if "stay valid until they expire" in message]
    assert [message.split()[2] for message in warnings] == ([] if present else ["a", "b"])

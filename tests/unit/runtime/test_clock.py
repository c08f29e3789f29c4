"""Test when the host's clock is trusted: compared with other clocks, without a reference, and after it is set."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from ingest.messages import Presence
from ingest.worker import compare_agents_clock
from runtime.clock import Clock, ClockDoubted, Comparison
from schema.messages import Status

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC).timestamp()


class Host:
    """A host's wall clock, which can be set, and its monotonic clock."""

    def __init__(self) -> None:
        self.wall = NOON
        self.monotonic = 1_000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.monotonic)

    def compared(self, ahead: float, margin: float = 0.0) -> Comparison:
        """Return a comparison made at this moment."""
        return Comparison(ahead, margin, self.wall - self.monotonic)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.mark.parametrize(
    ("ahead", "margin", "agree"),
    [
        (0.0, 0.0, True),
        (4.9, 0.05, True),
        (-4.9, 0.05, True),
        (5.1, 0.0, False),
        (-5.1, 0.0, False),
        (20 * 86400.0, 0.5, False),
        # A slow answer has a large margin.
        (0.0, 30.0, None),
        (4.9, 0.2, None),
        (5.1, 0.2, None),
        (40.0, 30.0, False),
    ],
)
def test_clocks_agree_within_five_seconds_unless_the_margin_leaves_doubt(
    ahead: float, margin: float, agree: bool | None
) -> None:
    assert Comparison(ahead, margin, 0.0).agree is agree


def test_differing_clock_is_doubted_until_it_agrees(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = host.clock()
    assert clock.trusted
    for _ in range(3):
        clock.note(host.compared(-120.0))
        assert clock.doubt == "this host's clock and the database's differ by 120 s, this one is behind"
        with pytest.raises(ClockDoubted, match="differ by 120 s"):
            clock.now()
    clock.note(host.compared(0.0, 30.0))
    assert not clock.trusted, "a slow answer changes nothing"
    clock.note(host.compared(0.1))
    assert clock.trusted
    assert clock.now() == datetime(2026, 1, 20, 12)
    assert [message.split(":")[0] for message in caplog.messages] == ["clock"] * 2
    assert caplog.messages[1] == "clock: trusted again"


@pytest.mark.parametrize("step", [20 * 86400.0, -120.0, 7200.0, 5.1, -5.1])
def test_clock_is_doubted_as_soon_as_it_is_set(host: Host, step: float) -> None:
    clock = host.clock()
    clock.note(host.compared(0.0))
    host.wait(1_000.0)
    assert clock.trusted
    host.wall += step
    assert clock.doubt is not None and clock.doubt.startswith("this host's clock was set by ")
    host.wall -= step
    assert clock.trusted


@pytest.mark.parametrize("step", [4.9, -4.9])
def test_small_clock_step_is_ignored(host: Host, step: float) -> None:
    clock = host.clock()
    host.wall += step
    assert clock.trusted


def test_corrected_clock_is_trusted_after_the_next_comparison(host: Host) -> None:
    clock = host.clock()
    clock.note(host.compared(-600.0))
    host.wall += 600.0
    assert not clock.trusted
    clock.note(host.compared(0.0))
    assert clock.trusted
    host.wall -= 600.0
    assert not clock.trusted


def test_clock_set_during_a_comparison_is_doubted(host: Host) -> None:
    clock = host.clock()
    found = host.compared(0.0)
    host.wall += 7_200.0
    clock.note(found)
    assert not clock.trusted


def test_drift_is_not_mistaken_for_a_step(host: Host) -> None:
    clock = host.clock()
    for _ in range(100):
        host.wait(5.0)
        host.wall += 0.1
        clock.note(host.compared(0.0))
        assert clock.trusted


def test_clock_set_without_a_reference_is_doubted_for_five_minutes(host: Host) -> None:
    clock = host.clock()
    clock.note(None)
    assert clock.trusted
    host.wall += 20 * 86400.0
    assert not clock.trusted
    for _ in range(59):
        clock.note(None)
        host.wait(5.0)
        assert clock.doubt is not None
    host.wait(5.1)
    assert clock.trusted
    clock.note(None)
    assert clock.trusted


async def test_agreed_waits_until_the_clock_is_trusted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.clock._LOOK_AGAIN", 0.001)
    clock = host.clock()
    clock.note(host.compared(99.0))
    waiting = asyncio.create_task(clock.agreed())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    clock.note(host.compared(0.0))
    async with asyncio.timeout(10):
        await waiting


@pytest.mark.parametrize("ahead", [120.0, -120.0, 31.0, -31.0])
def test_clock_is_doubted_when_most_agents_differ_but_the_database_agrees(host: Host, ahead: float) -> None:
    clock = host.clock()
    for number in range(3):
        assert clock.trusted, "two are too few"
        clock.record_agent(f"m{number}", ahead)
        clock.note(host.compared(0.0))
    assert clock.doubt == f"this host's clock and those of most agents differ by about {abs(ahead):.0f} s"
    # The clock is corrected, and so is the database's.
    host.wall -= ahead
    clock.note(host.compared(0.0))
    assert clock.trusted


def test_a_few_agents_with_wrong_clocks_raise_no_doubt(host: Host) -> None:
    clock = host.clock()
    for number, ahead in enumerate([0.2, 0.3, 9e9, -9e9, 0.1, 9e9, 9e9]):
        clock.record_agent(f"m{number}", ahead)
    assert clock.trusted
    for _ in range(100):
        clock.record_agent("m2", 9e9)
    assert clock.trusted, "whoever says it often is still one"


def test_agent_times_expire(host: Host) -> None:
    clock = host.clock()
    for number in range(3):
        clock.record_agent(f"m{number}", 120.0)
    host.wait(901.0)
    clock.record_agent("m9", 0.0)
    assert clock.trusted


def test_slow_agent_messages_raise_no_doubt(host: Host) -> None:
    clock = host.clock()
    for number in range(9):
        clock.record_agent(f"m{number}", 29.0)
    assert clock.trusted


def test_only_live_online_statuses_are_compared() -> None:
    clock = Clock()
    arrived = datetime(2026, 1, 20, 12, tzinfo=UTC)
    for number in range(9):
        old = Status(online=True, ts=arrived - timedelta(hours=1))
        compare_agents_clock(clock, Presence(f"m{number}", old, arrived, retained=True))
        compare_agents_clock(clock, Presence(f"m{number}", Status(online=False), arrived, retained=False))
    assert clock.trusted
    for number in range(3):
        slow = Status(online=True, ts=arrived + timedelta(seconds=120))
        compare_agents_clock(clock, Presence(f"m{number}", slow, arrived, retained=False))
    assert clock.doubt == "this host's clock and those of most agents differ by about 120 s"

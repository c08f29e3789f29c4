"""Test the live stream: at most one event per topic and second, without blocking."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.mqtt import live_stream
from runtime.mqtt.live_stream import LiveStream
from runtime.mqtt.session import NotConnected, PublishRefused
from schema.messages import MessageRejected, decode
from testbed.waiting import wait_until


class SlowBroker:
    """Fake broker that accepts messages only once ``open`` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.errors: list[Exception] = []
        self.published: list[tuple[str, str]] = []
        self.qos: set[int] = set()

    async def publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        await self.open.wait()
        self.qos.add(qos)
        if self.errors:
            raise self.errors.pop()
        self.published.append((topic, decode(payload, MessageRejected).reason))


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(live_stream.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def event(number: int) -> MessageRejected:
    return MessageRejected(topic="t", reason=str(number))


@contextmanager
def running(stream: LiveStream) -> Iterator[None]:
    task = asyncio.get_running_loop().create_task(stream.run())
    try:
        yield
    finally:
        task.cancel()


async def published(broker: SlowBroker, count: int) -> list[tuple[str, str]]:
    await wait_until(lambda: len(broker.published) >= count and not broker.errors, within=5)
    return broker.published


async def test_one_event_per_topic_and_second_is_published(clock: Clock) -> None:
    broker: Any = SlowBroker()
    broker.open.set()
    stream = LiveStream(broker)
    with running(stream):
        for number, (moment, topic) in enumerate([(0.0, "a"), (0.5, "a"), (0.5, "b"), (0.99, "a"), (1.0, "a")]):
            clock.now = moment
            stream.offer(topic, event(number))
        assert await published(broker, 3) == [("a", "0"), ("b", "2"), ("a", "4")]
    assert stream.dropped == 2
    assert broker.qos == {0}


async def test_slow_broker_causes_dropped_events_but_bounded_memory(clock: Clock) -> None:
    broker: Any = SlowBroker()
    stream = LiveStream(broker)
    with running(stream):
        for number in range(5_000):
            clock.now = number / 100
            stream.offer(f"topic/{number}", event(number))
        assert stream.dropped == 4_500
        broker.open.set()
        assert len(await published(broker, 500)) == 500


async def test_flood_of_topics_is_rate_limited(clock: Clock) -> None:
    broker: Any = SlowBroker()
    broker.open.set()
    stream = LiveStream(broker)
    with running(stream):
        for number in range(3_000):
            clock.now = number / 1_000
            stream.offer(f"topic/{number}", event(number))
            await asyncio.sleep(0)
        assert len(await published(broker, 750)) == 750
    assert stream.dropped == 2_250


async def test_a_dropped_event_does_not_silence_its_topic(clock: Clock) -> None:
    broker: Any = SlowBroker()
    stream = LiveStream(broker)
    for number in range(501):
        clock.now = number / 100
        stream.offer(f"topic/{number}", event(number))
    broker.open.set()
    with running(stream):
        await published(broker, 500)
        stream.offer("topic/500", event(7))
        assert (await published(broker, 501))[-1] == ("topic/500", "7")


@pytest.mark.parametrize("error", [NotConnected("away"), PublishRefused("no")])
async def test_unsendable_event_is_dropped_and_the_next_is_sent(clock: Clock, error: Exception) -> None:
    broker: Any = SlowBroker()
    broker.errors.append(error)
    broker.open.set()
    stream = LiveStream(broker)
    with running(stream):
        stream.offer("a", event(1))
        stream.offer("b", event(2))
        assert await published(broker, 1) == [("b", "2")]
    assert stream.dropped == 1


async def test_only_topics_of_the_last_second_are_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "_MOST_TOPICS", 100)
    broker: Any = SlowBroker()
    broker.open.set()
    stream = LiveStream(broker)
    with running(stream):
        for number in range(1_000):
            clock.now = number * 0.1
            stream.offer(f"topic/{number}", event(number))
            await asyncio.sleep(0)
        await published(broker, 1_000)
    assert len(stream._last) <= 100

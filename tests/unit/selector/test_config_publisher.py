"""Test when configurations are published: own changes immediately, others' when the broker is read again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.mqtt.session import NotConnected
from runtime.retry import Delays
from schema.messages import MonitorConfig, decode
from schema.topics import Topics
from selector import config_publisher
from selector.config_publisher import ConfigPublisher
from testbed.waiting import wait_until

TOPICS = Topics("devel")
DEBUG, INFO = MonitorConfig(protocols={}, log_level="debug"), MonitorConfig(protocols={}, log_level="info")


class Broker:
    """Fake broker: the retained configurations, and how often they were read and written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[str, MonitorConfig | None] = {}
        self.reads = 0
        self.writes: list[str] = []
        self.away = 0
        self.unwanted: list[str] = []
        worker = SimpleNamespace(topics=TOPICS, broker=self)
        metrics = SimpleNamespace(repaired=lambda what, count: None)
        self.configs = ConfigPublisher(cast(Any, worker), cast(Any, metrics), on_unwanted=self.unwanted.append)
        monkeypatch.setattr(config_publisher, "RETRY", Delays(0.001, 0.001))
        monkeypatch.setattr(self.configs, "_read", self._read)

    async def _read(self) -> dict[str, MonitorConfig | None]:
        self.reads += 1
        return dict(self.held)

    async def wait_ready(self) -> None:
        await asyncio.sleep(0)

    async def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        assert retain
        if self.away:
            self.away -= 1
            raise NotConnected("away")
        name = TOPICS.parse(topic).name  # type: ignore[union-attr]
        self.writes.append(name)
        if payload:
            self.held[name] = decode(payload, MonitorConfig)
        else:
            del self.held[name]

    async def until_held(self, **held: MonitorConfig) -> None:
        await wait_until(lambda: self.held == held, lambda: str(self.held))


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    made = Broker(monkeypatch)
    running = asyncio.create_task(made.configs.run())
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_only_changed_configs_are_published_and_at_once(broker: Broker) -> None:
    broker.held = {"a": DEBUG}
    broker.configs.set_wanted({"a": DEBUG, "b": DEBUG})
    await broker.until_held(a=DEBUG, b=DEBUG)
    broker.configs.set_wanted({"a": INFO, "b": DEBUG})
    await broker.until_held(a=INFO, b=DEBUG)
    assert (broker.writes, broker.reads) == (["b", "a"], 1)


async def test_unwanted_config_is_removed_and_its_monitor_is_reported(broker: Broker) -> None:
    broker.held = {"a": DEBUG, "gone": None}
    broker.configs.set_wanted({"a": DEBUG})
    await broker.until_held(a=DEBUG)
    assert (broker.writes, broker.unwanted) == (["gone"], ["gone"])


async def test_foreign_changes_are_repaired_at_the_next_read(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_publisher, "REREAD", 0.01)
    broker.configs.set_wanted({"a": DEBUG})
    await broker.until_held(a=DEBUG)
    broker.held["a"] = INFO
    await broker.until_held(a=DEBUG)


async def test_configs_are_read_in_time_however_often_they_change(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_publisher, "REREAD", 0.1)
    async with asyncio.timeout(10):
        while broker.reads < 3:
            broker.configs.set_wanted({"a": DEBUG if broker.configs._wanted == {"a": INFO} else INFO})
            await asyncio.sleep(0.01)


async def test_invalidated_configs_are_read_and_published_again(broker: Broker) -> None:
    broker.configs.set_wanted({"a": DEBUG})
    await broker.until_held(a=DEBUG)
    broker.held.clear()  # as after a restart of the broker without its data
    broker.configs.invalidate()
    await broker.until_held(a=DEBUG)


async def test_publishing_is_retried_during_an_outage_of_the_broker(broker: Broker) -> None:
    broker.away = 3
    broker.configs.set_wanted({"a": DEBUG})
    await broker.until_held(a=DEBUG)
    assert broker.reads == 4, "nobody knows what it holds after it was away"

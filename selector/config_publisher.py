"""Publish the retained ``config/{name}`` of every monitor as the ledger has it.

The broker's configs are read after connecting and every few minutes, and cached in between, so that a change is
published at once and unchanged configs are not. Configs of monitors that are not in the ledger are removed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from runtime.mqtt.retained import read_retained
from runtime.mqtt.session import Incoming, NotConnected, PublishRefused
from runtime.retry import Delays, Outage, Setback, until_done
from runtime.wakeup import Wakeup
from runtime.worker import Worker
from schema.messages import MonitorConfig, Undecodable, decode, encode
from schema.topics import ANY
from selector.metrics import SelectorMetrics

REREAD: Final = 600.0
"""Seconds for which the cached state of the broker is valid."""

RETRY: Final = Delays(first_seconds=2.0, longest_seconds=2.0)
"""Delay before the next attempt after a failure of the broker."""


class ConfigPublisher:
    """Publisher of the configs that differ from the broker's.

    Args:
        on_unwanted: called with the name of a config that the broker held although the ledger has no such monitor.
    """

    def __init__(self, worker: Worker, metrics: SelectorMetrics, *, on_unwanted: Callable[[str], None]) -> None:
        self._worker = worker
        self._metrics = metrics
        self._on_unwanted = on_unwanted
        self._wanted: Mapping[str, MonitorConfig] | None = None
        self._held: dict[str, MonitorConfig | None] | None = None
        self._wakeup = Wakeup()
        self._outage = Outage("configs")

    def set_wanted(self, wanted: Mapping[str, MonitorConfig]) -> None:
        """Set the configs of all monitors."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._wakeup.set()

    def invalidate(self) -> None:
        """Discard the cached state of the broker, since it was unavailable and may have lost messages."""
        self._held = None
        self._wakeup.set()

    async def run(self) -> None:
        """Publish until cancelled, after every change and every few minutes."""
        read_at = time.monotonic()
        while True:
            woken = await self._wakeup.wait(max(0.0, read_at + REREAD - time.monotonic()))
            # In time, however often the configs change.
            if not woken or time.monotonic() >= read_at + REREAD:
                self._held = None
                read_at = time.monotonic()
            await until_done(self._attempt, self._judge, RETRY, self._outage)

    async def _attempt(self) -> None:
        await self._worker.broker.wait_ready()
        self._wakeup.clear()
        await self._publish(self._wanted)

    def _judge(self, error: Exception) -> Setback | None:
        if not isinstance(error, NotConnected | PublishRefused):
            return None
        self._held = None  # unknown now
        return Setback(f"could not be published: {error}", "trying again")

    async def _publish(self, wanted: Mapping[str, MonitorConfig] | None) -> None:
        if wanted is None:
            return
        if self._held is None:
            self._held = await self._read()
        held = self._held  # a local reference, since invalidate() may be called meanwhile
        for name, config in wanted.items():
            if held.get(name) != config:
                await self._put(name, encode(config))
                held[name] = config
        for name in held.keys() - wanted.keys():
            await self._put(name, b"")
            del held[name]
            self._on_unwanted(name)

    async def _put(self, name: str, payload: bytes) -> None:
        await self._worker.broker.publish(self._worker.topics.config(name), payload, retain=True)
        self._metrics.repaired("config", 1)

    async def _read(self) -> dict[str, MonitorConfig | None]:
        held: dict[str, MonitorConfig | None] = {}
        topics, broker = self._worker.topics, self._worker.broker
        settle = self._worker.plugin.settle_seconds

        def collect(message: Incoming) -> None:
            address = topics.parse(message.topic)
            if address is None or address.kind != "config":
                return
            if message.payload:
                held[address.name] = _config(message.payload)
            else:
                held.pop(address.name, None)

        await read_retained(broker, topics.config(ANY), topics.echo(broker.identity.client_id), collect, settle=settle)
        return held


def _config(payload: bytes) -> MonitorConfig | None:
    try:
        return decode(payload, MonitorConfig)
    except Undecodable:
        return None

"""Keeps the retained ``config/{name}`` of every monitor as the ledger has it.

What the broker holds is read when we come to it and every few minutes, and remembered in between, so that a change is
published at once and nothing else is. Configs of monitors that are not in the ledger are removed.
"""

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
"""Seconds for which the broker is taken to hold what we last read or published."""

RETRY: Final = Delays(first_seconds=2.0, longest_seconds=2.0)
"""Before the next attempt after the broker failed."""


class ConfigPublisher:
    """Publishes what differs from what the broker holds.

    Args:
        on_unwanted: called with the names of configs that the broker held although the ledger has no such monitor.
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
        """These are the configs of all monitors from now on."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._wakeup.set()

    def forget(self) -> None:
        """What the broker holds is not known any more: it was away."""
        self._held = None
        self._wakeup.set()

    async def run(self) -> None:
        """Publishes until cancelled, whenever something changed and every few minutes."""
        while True:
            if not await self._wakeup.wait(REREAD):
                self._held = None
            await until_done(self._attempt, self._judge, RETRY, self._outage)

    async def _attempt(self) -> None:
        await self._worker.broker.wait_ready()
        self._wakeup.clear()
        await self._publish(self._wanted)

    def _judge(self, error: Exception) -> Setback | None:
        if not isinstance(error, NotConnected | PublishRefused):
            return None
        self._held = None  # nobody knows
        return Setback(f"could not be published: {error}", "trying again")

    async def _publish(self, wanted: Mapping[str, MonitorConfig] | None) -> None:
        if wanted is None:
            return
        if self._held is None:
            self._held = await self._read()
        held = self._held  # stays ours when what we know of is forgotten meanwhile
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

        def take(message: Incoming) -> None:
            address = topics.parse(message.topic)
            if address is None or address.kind != "config":
                return
            if message.payload:
                held[address.name] = _config(message.payload)
            else:
                held.pop(address.name, None)

        await read_retained(broker, topics.config(ANY), topics.echo(broker.identity.client_id), take)
        return held


def _config(payload: bytes) -> MonitorConfig | None:
    try:
        return decode(payload, MonitorConfig)
    except Undecodable:
        return None

"""Test that a worker finds out whether the broker has the plugin, with a Mosquitto that has it and one that has not."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from auth.tokens import Role
from runtime.mqtt.plugin import BrokerPlugin, names_sender
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, NotConnected
from schema.topics import Topics
from testbed.broker import LocalBroker, as_our_user
from testbed.fixtures.broker import Broker
from testbed.ports import ADDRESS
from testbed.waiting import PATIENCE, wait_until

TOPIC = Topics("test").plugin_check("api/1")


class WithoutPlugin(LocalBroker):
    """A Mosquitto that admits everybody, as another make of broker with its own checks would admit us."""

    def configuration(self) -> str:
        lines = [f"listener {self.port} {ADDRESS}", "allow_anonymous true", "log_type all", "log_dest stderr"]
        return "\n".join([*as_our_user(), *lines, ""])


@pytest.fixture
def plain() -> Iterator[Broker]:
    with Broker(kind=WithoutPlugin) as running:
        yield running


@asynccontextmanager
async def checked(broker: Broker) -> AsyncIterator[tuple[BrokerSession, BrokerPlugin]]:
    """Run a session and its check, as a worker does."""
    plugin = BrokerPlugin()
    session = BrokerSession(
        BrokerAddress(ADDRESS, broker.port),
        Identity("api", "api/1"),
        lambda: broker.token(Role.SERVER, "api", "test"),
        on_ready=plugin.on_ready,
    )
    running = [asyncio.create_task(session.run()), asyncio.create_task(plugin.run(session, TOPIC))]
    try:
        yield session, plugin
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def test_broker_with_the_plugin_is_recognized(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    async with checked(broker) as (_, plugin):
        assert plugin.describe() == "not checked yet"
        await wait_until(lambda: plugin.present is not None)
        assert (plugin.present, plugin.settle_seconds, plugin.describe()) == (True, 0.0, "with the plugin")
    assert "without the plugin" not in caplog.text


async def test_broker_without_the_plugin_is_reported_once_and_gets_time_for_retained_messages(
    plain: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async with checked(plain) as (session, plugin):
        await wait_until(lambda: plugin.present is False)
        assert plugin.settle_seconds > 0
        for connections in (2, 3):
            session.reconnect()
            await wait_until(lambda connections=connections: session.connections == connections)  # type: ignore[misc]  # mypy sees no type of a default
            assert await names_sender(session, TOPIC) is False
    assert caplog.text.count("without the plugin: senders of commands are unverified") == 1


async def test_check_is_repeated_at_the_next_connection(plain: Broker) -> None:
    async with checked(plain) as (session, plugin):
        await wait_until(lambda: plugin.present is False)
        plugin.present = None
        session.reconnect()
        await wait_until(lambda: plugin.present is False)


async def test_lost_connection_proves_nothing(plain: Broker) -> None:
    async with checked(plain) as (session, plugin):
        await wait_until(lambda: plugin.present is False)
        asking = asyncio.create_task(names_sender(session, TOPIC))
        plain.process.kill()
        with pytest.raises(NotConnected):
            await asyncio.wait_for(asking, PATIENCE)
        plain.start()

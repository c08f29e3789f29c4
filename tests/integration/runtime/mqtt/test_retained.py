"""Test reading retained messages: complete, in order, or an error."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from auth.tokens import Role
from runtime.mqtt.client import Client
from runtime.mqtt.retained import read_retained
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Incoming, NotConnected
from runtime.mqtt.types import Subscription
from testbed.fixtures.broker import Broker
from testbed.waiting import PATIENCE, wait_until


@asynccontextmanager
async def session(broker: Broker, role: Role = Role.SERVER) -> AsyncIterator[BrokerSession]:
    identity = Identity("selector", f"selector/{secrets.token_hex(4)}")
    made = BrokerSession(
        BrokerAddress("127.0.0.1", broker.port), identity, lambda: broker.token(role, "selector", "test")
    )
    running = asyncio.create_task(made.run(), name="session")
    await asyncio.wait_for(made.wait_ready(), PATIENCE)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait({running})


def place() -> str:
    return f"/test/monitors/assignments/r{secrets.token_hex(4)}.test.mon.example"


async def read(made: BrokerSession, topic_filter: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def take(message: Incoming) -> None:
        found[message.topic] = message.payload

    await read_retained(made, topic_filter, f"/test/echo/{made.identity.client_id}", take, timeout=PATIENCE)
    return found


async def test_thousands_of_messages_are_read_completely(broker: Broker) -> None:
    below = place()
    async with session(broker) as made:
        wanted = {f"{below}/v4/{n}": b"x" * (n % 300 + 1) for n in range(6_000)}
        topics = list(wanted)
        for first in range(0, len(topics), 500):
            some = topics[first : first + 500]
            await asyncio.gather(*(made.publish(topic, wanted[topic], retain=True) for topic in some))
        assert await read(made, f"{below}/#") == wanted
        assert await read(made, f"{below}/#") == wanted, "and again"
        assert await read(made, f"{below}/v4/17") == {f"{below}/v4/17": wanted[f"{below}/v4/17"]}


async def test_topic_without_retained_messages_reads_as_empty(broker: Broker) -> None:
    async with session(broker) as made:
        assert await read(made, f"{place()}/#") == {}


async def test_several_filters_may_be_read_concurrently(broker: Broker) -> None:
    places = [place() for _ in range(5)]
    async with session(broker) as made:
        for number, below in enumerate(places):
            await made.publish(f"{below}/v4/{number}", b"here", retain=True)
        found = await asyncio.gather(*(read(made, f"{below}/#") for below in places))
    assert [list(one) for one in found] == [[f"{below}/v4/{number}"] for number, below in enumerate(places)]


async def test_messages_published_during_a_watch_are_received(broker: Broker) -> None:
    below = place()
    async with session(broker) as made, session(broker) as other:
        await made.publish(f"{below}/v4/1", b"old", retain=True)
        found: dict[str, bytes] = {}

        def take(message: Incoming) -> None:
            found[message.topic] = message.payload

        async with made.watching(Subscription(f"{below}/#", take)):
            await other.publish(f"{below}/v4/1", b"new", retain=True)
            await other.publish(f"{below}/v4/2", b"too", retain=True)
            await wait_until(lambda: found == {f"{below}/v4/1": b"new", f"{below}/v4/2": b"too"}, lambda: str(found))
        await other.publish(f"{below}/v4/3", b"late", retain=True)
        await read(made, f"{place()}/#")
        assert f"{below}/v4/3" not in found, "the watch is over"


async def test_static_subscription_is_unaffected_by_a_read(broker: Broker) -> None:
    below, heard = place(), list[bytes]()
    identity = Identity("selector", f"selector/{secrets.token_hex(4)}")
    made = BrokerSession(
        BrokerAddress("127.0.0.1", broker.port), identity, lambda: broker.token(Role.SERVER, "selector", "test")
    )
    made.subscribe(Subscription(f"{below}/status", lambda message: heard.append(message.payload)))
    running = asyncio.create_task(made.run())
    await made.wait_ready()
    await made.publish(f"{below}/v4/1", b"one", retain=True)
    assert await read(made, f"{below}/v4/#") == {f"{below}/v4/1": b"one"}
    await made.publish(f"{below}/status", b"still here")
    await wait_until(lambda: heard)
    running.cancel()
    await asyncio.wait({running})


async def test_lost_connection_is_reported_and_the_session_recovers(fresh_broker: Broker) -> None:
    below = place()
    async with session(fresh_broker) as made:
        await made.publish(f"{below}/v4/1", b"one", retain=True)
        connections = made.connections
        async with made.watching(Subscription(f"{below}/#", lambda message: None)) as lost:
            fresh_broker.stop()
            await asyncio.wait({lost}, timeout=PATIENCE)
            assert lost.done()
        with pytest.raises(NotConnected):
            await read(made, f"{below}/#")
        fresh_broker.start()
        await wait_until(lambda: made.connections > connections)
        assert await read(made, f"{below}/#") == {f"{below}/v4/1": b"one"}


async def test_watch_ends_at_once_with_its_session(broker: Broker) -> None:
    async with session(broker) as made:
        async with asyncio.timeout(3.0):
            async with asyncio.TaskGroup() as tasks:
                entered = asyncio.Event()

                async def watch() -> None:
                    async with made.watching(Subscription(f"{place()}/#", lambda message: None)):
                        entered.set()
                        await asyncio.Event().wait()

                watching = tasks.create_task(watch())
                await entered.wait()
                [running] = [task for task in asyncio.all_tasks() if task.get_name() == "session"]
                watching.cancel()
                running.cancel()


async def test_cancellation_is_not_lost_if_the_broker_answers_at_the_same_time(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = False
    answered = Client._on_subscribe

    def answered_and_told(client: Client, *given: Any) -> None:
        answered(client, *given)
        watching.cancel()

    async def watch(made: BrokerSession) -> None:
        nonlocal inside
        async with made.watching(Subscription(f"{place()}/#", lambda message: None)):
            inside = True

    monkeypatch.setattr(Client, "_on_subscribe", answered_and_told)
    async with session(broker) as made:
        watching = asyncio.create_task(watch(made))
        with pytest.raises(asyncio.CancelledError):
            await watching
        monkeypatch.undo()
    assert not inside


async def test_filter_that_the_token_does_not_allow_raises(broker: Broker) -> None:
    async with session(broker) as made:
        with pytest.raises(NotConnected, match="not allowed"):
            await read(made, "/prod/monitors/assignments/#")
        assert await read(made, f"{place()}/#") == {}, "the session goes on"

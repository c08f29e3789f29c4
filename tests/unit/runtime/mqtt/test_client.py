"""Test the client's side of a connection: the window of unacknowledged messages, matching of answers, and its end."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiomqtt import MqttError
from hypothesis import given
from hypothesis import strategies as st

from runtime.mqtt.client import Client, Disconnected, PublishRefused
from runtime.mqtt.packets import publish_properties
from runtime.mqtt.types import BrokerAddress, Identity, Incoming
from testbed.fixtures.wire import (
    CONNECT,
    DISCONNECT,
    NOT_AUTHORIZED,
    SUBSCRIBE,
    TAKEN_OVER,
    Peer,
    connack,
    disconnect,
    listening,
    puback,
    publish,
    suback,
)
from testbed.waiting import wait_until

PLAIN = publish_properties(expiry=None, response_topic=None, correlation=None, user_properties=())


def make(port: int, *, max_inflight: int = 100, received: list[Incoming] | None = None) -> Client:
    return Client(
        BrokerAddress("127.0.0.1", port),
        Identity("a", "a"),
        "token",
        tls=None,
        will=None,
        keep=timedelta(0),
        keepalive=30,
        max_inflight=max_inflight,
        deliver=([] if received is None else received).append,
    )


@asynccontextmanager
async def welcomed(
    receive_max: int | None = None, *, max_inflight: int = 100, received: list[Incoming] | None = None
) -> AsyncIterator[tuple[Client, Peer]]:
    async with asyncio.timeout(20), listening() as (port, peers):
        client = make(port, max_inflight=max_inflight, received=received)
        entering = asyncio.create_task(client.__aenter__())
        peer = await peers.get()
        hello = await peer.hear()
        assert hello is not None and hello.kind == CONNECT
        peer.say(connack(receive_max))
        await entering
        try:
            yield client, peer
        finally:
            await client.__aexit__(None, None, None)


def send(client: Client, payload: bytes, *, qos: int = 1, timeout: float = 10.0) -> "asyncio.Task[None]":
    sending = client.send("a", payload, qos=qos, retain=False, properties=PLAIN, timeout=timeout)
    return asyncio.create_task(sending)


@pytest.mark.parametrize(("receive_max", "max_inflight"), [(2, 100), (None, 2)])
async def test_inflight_window_is_respected_and_the_rest_follows_in_order(
    receive_max: int | None, max_inflight: int
) -> None:
    async with welcomed(receive_max, max_inflight=max_inflight) as (client, peer):
        sending = [send(client, payload) for payload in (b"1", b"2", b"3", b"4")]
        first = await peer.messages(2)
        assert list(first) == [b"1", b"2"]
        assert await peer.is_silent()
        peer.say(puback(first[b"2"]))
        second = await peer.messages(1)
        assert list(second) == [b"3"]
        assert [task.done() for task in sending] == [False, True, False, False]
        peer.say(puback(first[b"1"]), puback(second[b"3"]))
        third = await peer.messages(1)
        peer.say(puback(third[b"4"]))
        await asyncio.gather(*sending)


async def test_message_that_timed_out_in_the_queue_is_neither_sent_nor_kept() -> None:
    async with welcomed(1) as (client, peer):
        first, second, third = send(client, b"1"), send(client, b"2", timeout=0.01), send(client, b"3")
        with pytest.raises(TimeoutError):
            await second
        assert len(client._waiting) == 1
        peer.say(puback((await peer.messages(1))[b"1"]))
        await first
        peer.say(puback((await peer.messages(1))[b"3"]))
        await third
        assert not client._waiting and not client._unacknowledged


async def test_unacknowledged_messages_never_exceed_the_window() -> None:
    async with welcomed(2) as (client, peer):
        for number in range(20):
            with pytest.raises(TimeoutError):
                await send(client, str(number).encode(), timeout=0.001)
        assert len(await peer.messages(2)) == 2
        assert (len(client._client._out_messages), len(client._waiting)) == (2, 0)


async def test_late_puback_is_not_attributed_to_another_message() -> None:
    async with welcomed() as (client, peer):
        slow = send(client, b"slow", timeout=0.01)
        identifier = (await peer.messages(1))[b"slow"]
        with pytest.raises(TimeoutError):
            await slow
        client._client._last_mid = identifier - 1  # as if all other identifiers had been used
        quick = send(client, b"quick")
        assert (await peer.messages(1))[b"quick"] == identifier + 1
        peer.say(puback(identifier, NOT_AUTHORIZED), puback(identifier + 1))
        await quick


async def test_qos_0_message_does_not_complete_one_with_the_same_identifier() -> None:
    async with welcomed() as (client, peer):
        acknowledged = send(client, b"1")
        identifier = (await peer.messages(1))[b"1"]
        client._client._last_mid = identifier - 1
        await send(client, b"0", qos=0)
        assert await peer.messages(1) == {b"0": 0}
        assert not acknowledged.done()
        peer.say(puback(identifier, NOT_AUTHORIZED))
        with pytest.raises(PublishRefused):
            await acknowledged


async def test_each_message_gets_its_own_puback() -> None:
    async with welcomed() as (client, peer):
        good, bad = send(client, b"good"), send(client, b"bad")
        sent = await peer.messages(2)
        peer.say(puback(sent[b"bad"], NOT_AUTHORIZED), puback(sent[b"good"]))
        await good
        with pytest.raises(PublishRefused, match="Not authorized"):
            await bad


async def test_disconnect_fails_all_waiting_and_all_later_calls() -> None:
    async with welcomed(1) as (client, peer):
        waiting = [send(client, b"1"), send(client, b"2"), asyncio.create_task(client.subscribe("b"))]
        await peer.messages(1)
        subscribe = await peer.hear()
        assert subscribe is not None and subscribe.kind == SUBSCRIBE
        peer.say(disconnect(TAKEN_OVER))
        await asyncio.wait(waiting)
        for task in [*waiting, send(client, b"3"), send(client, b"4", qos=0)]:
            with pytest.raises(Disconnected, match="Session taken over") as told:
                await task
            assert told.value.code == TAKEN_OVER
        assert await peer.hear() is None


async def test_messages_and_answers_are_processed_in_order() -> None:
    received: list[Incoming] = []
    async with welcomed(received=received) as (client, peer):
        subscribing = asyncio.create_task(client.subscribe("b"))
        request = await peer.hear()
        assert request is not None
        subscribing.add_done_callback(lambda _: received.append(Incoming("answer", b"")))
        peer.say(publish(b"b", b"1"), suback(request.identifier), publish(b"b", b"2"))
        await subscribing
        assert [message.payload for message in received[:2]] == [b"1", b"2"]


async def test_retained_message_is_distinguished_from_a_live_one() -> None:
    """A retained control command must not be executed."""
    received: list[Incoming] = []
    async with welcomed(received=received) as (_, peer):
        peer.say(publish(b"b", b"old", retain=True), publish(b"b", b"new"))
        await wait_until(lambda: len(received) >= 2)
    assert [(message.payload, message.retain) for message in received] == [(b"old", True), (b"new", False)]


async def test_qos_0_backlog_is_bounded_when_the_broker_does_not_keep_up() -> None:
    megabyte = b"x" * 2**20
    async with welcomed() as (client, _):
        with pytest.raises(TimeoutError):
            for _ in range(100):
                await send(client, megabyte, qos=0)
                await asyncio.sleep(0)
        assert 16 * 2**20 <= client._socket.backlog <= 18 * 2**20


async def test_disconnect_is_sent_after_all_pending_messages() -> None:
    async with welcomed() as (client, peer):
        await send(client, b"last words", qos=0)
        leaving = asyncio.create_task(client.__aexit__(None, None, None))
        assert list(await peer.messages(1)) == [b"last words"]
        goodbye = await peer.hear()
        assert goodbye is not None and goodbye.kind == DISCONNECT
        assert await peer.hear() is None
        await leaving
        assert client.lost.done() and client.lost.exception() is None


async def test_no_connection_attempt_leaks_a_socket(recwarn: pytest.WarningsRecorder) -> None:
    """Cancelled while connecting or waiting for the CONNACK, or closed by the peer: Python warns of open sockets."""
    servers = []
    for rounds in range(8):
        async with asyncio.timeout(20), listening() as (port, _):
            servers.append(f"laddr=('127.0.0.1', {port})")
            attempt = asyncio.create_task(make(port).__aenter__())
            for _ in range(rounds):
                await asyncio.sleep(0)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
    async with asyncio.timeout(20), listening() as (port, peers):
        servers.append(f"laddr=('127.0.0.1', {port})")
        closed = asyncio.create_task(make(port).__aenter__())
        (await peers.get()).close()
        with pytest.raises(Disconnected):
            await closed
        cancelled = asyncio.create_task(make(port).__aenter__())
        peer = await peers.get()
        assert await peer.hear() is not None
        cancelled.cancel()
        assert await peer.hear() is None
    gc.collect()
    left = [str(warning.message) for warning in recwarn if "unclosed <socket" in str(warning.message)]
    assert [text for text in left if not any(server in text for server in servers)] == []


@given(
    packets=st.lists(
        st.sampled_from(
            [
                connack(),
                puback(1),
                b"\x50\x02\x00\x01",  # PUBREC
                b"\x62\x02\x00\x01",  # PUBREL
                suback(1),
                b"\xb0\x04\x00\x01\x00\x00",  # UNSUBACK
                b"\xd0\x00",  # PINGRESP
                b"\xc0\x00",  # PINGREQ
                b"\x34\x06\x00\x01a\x00\x01\x00",  # PUBLISH with QoS 2
                publish(b"\xff", b"no text"),
                b"\x82\x00",  # SUBSCRIBE
                disconnect(0),
                b"\xf0\x00",  # AUTH
            ]
        ),
        max_size=5,
    )
)
def test_unexpected_packets_end_the_connection_or_are_ignored(packets: list[bytes]) -> None:
    async def run() -> None:
        async with welcomed() as (client, peer):
            peer.say(*packets)
            peer.close()
            await asyncio.wait({client.lost}, timeout=10)
            assert isinstance(client.lost.exception(), MqttError)

    asyncio.run(run())

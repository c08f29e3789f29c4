"""Test the broker session with a real Mosquitto: its guarantees when connections are lost and brokers restart."""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from auth.tokens import Role
from runtime.mqtt.session import (
    BrokerSession,
    Lost,
    NotConnected,
    Subscription,
    Will,
    quick_back_off,
)
from runtime.mqtt.types import SESSION_TAKEN_OVER
from schema.topics import shared
from testbed.fixtures.broker import Broker, Transport
from testbed.fixtures.broker_sessions import (
    HOUR,
    TAKEN_OVER,
    TOPICS,
    WELCOME,
    Inbox,
    a_broker_that_says,
    listening,
    make,
    new_monitor,
    new_topic,
    running,
    stranger,
    worker,
)
from testbed.waiting import PATIENCE, wait_until


@pytest.fixture
def broker(broker: Broker, transport: Transport) -> Broker:
    """The session-scoped broker, reached by each transport in turn."""
    return broker.via(transport)


@pytest.fixture
def fresh_broker(fresh_broker: Broker, transport: Transport) -> Broker:
    """A broker of the test's own, reached by each transport in turn."""
    return fresh_broker.via(transport)


async def test_unreachable_broker_is_logged_once_and_retried(
    fresh_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[Lost] = []
    fresh_broker.stop()
    session = worker(fresh_broker, on_lost=lost.append)
    async with running(session, ready=False):
        with pytest.raises(NotConnected):
            await session.publish(new_topic(), b"x", timeout=0.1)
        with pytest.raises(NotConnected):
            await session.publish(new_topic(), b"x", qos=0)
        await wait_until(lambda: len(lost) >= 5)
        assert len(caplog.messages) == 1
        assert "Connection refused" in caplog.text
        await asyncio.to_thread(fresh_broker.start)
        await session.publish(new_topic(), b"x", timeout=PATIENCE)
    assert all(each.lasted == 0.0 for each in lost)


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_session_subscribes_again_after_a_broker_outage(fresh_broker: Broker, end: str) -> None:
    inbox, topic, ready = Inbox(), new_topic(), []
    plain = Subscription(f"{topic}/a", inbox.take)
    group = Subscription(shared("g", f"{topic}/b"), inbox.take)
    session = worker(fresh_broker, subscriptions=[plain, group], on_ready=lambda: ready.append(1))
    async with running(session):
        if end == "kill":
            await asyncio.to_thread(fresh_broker.kill)
            await asyncio.to_thread(fresh_broker.start)
        else:
            await asyncio.to_thread(fresh_broker.restart)
        await wait_until(lambda: session.connections == 2)
        await session.publish(f"{topic}/a", b"1")
        await session.publish(f"{topic}/b", b"2")
        await inbox.until("1", "2")
    assert len(ready) == 2


async def test_publish_on_a_cut_connection_fails_and_the_next_succeeds(broker: Broker) -> None:
    lost: list[Lost] = []
    async with broker.proxy() as proxy:
        session = worker(broker, port=proxy.port, on_lost=lost.append)
        async with running(session):
            proxy.pause()
            unanswered = asyncio.create_task(session.publish(new_topic(), b"x"))
            await asyncio.sleep(0)
            await proxy.cut()
            with pytest.raises(NotConnected, match="lost"):
                await unanswered
            proxy.resume()
            await session.publish(new_topic(), b"x", timeout=PATIENCE)
            assert session.connections == 2
    assert lost[0].lasted > 0
    assert not lost[0].taken_over


async def test_publish_to_an_unresponsive_broker_times_out(broker: Broker) -> None:
    async with broker.proxy() as proxy, running(session := worker(broker, port=proxy.port)):
        proxy.pause()
        with pytest.raises(NotConnected, match=r"did not answer within 0\.2 s"):
            await session.publish(new_topic(), b"x", timeout=0.2)
        proxy.resume()


async def test_kept_session_gets_missed_messages_but_no_retained_ones_again(broker: Broker) -> None:
    name, inbox, sessions = new_monitor(), Inbox(), list[bool]()
    topic = TOPICS.acks(name, "v4")
    subscriptions = [Subscription(TOPICS.acks(name, "+"), inbox.take), Subscription(TOPICS.config(name), inbox.take)]
    async with broker.proxy() as proxy, running(sender := worker(broker)):
        await sender.publish(TOPICS.config(name), b"config", retain=True)
        options = {"port": proxy.port, "keep": HOUR, "on_session": sessions.append, "subscriptions": subscriptions}
        async with running(monitor := make(broker, Role.MONITOR, name, **options)):
            await inbox.until("config")
            await monitor.publish(TOPICS.status(name), b"mark")  # after the acknowledgement of "config"
            proxy.refuse()
            await proxy.cut()
            await wait_until(lambda: not monitor.connected)
            await sender.publish(topic, b"meanwhile")
            await proxy.accept()
            await inbox.until("meanwhile")
            await sender.publish(topic, b"after")
            await inbox.until("after")
        await sender.publish(TOPICS.config(name), b"", retain=True)
    assert sessions[0] is False
    assert sessions[-1] is True
    assert inbox.payloads == ["config", "meanwhile", "after"]


async def test_new_process_with_a_kept_session_gets_all_retained_messages(broker: Broker) -> None:
    name = new_monitor()
    async with running(sender := worker(broker)):
        await sender.publish(TOPICS.config(name), b"config", retain=True)
        for expected in (False, True):
            inbox, sessions = Inbox(), list[bool]()
            subscriptions = [Subscription(TOPICS.config(name), inbox.take)]
            options = {"keep": HOUR, "on_session": sessions.append, "subscriptions": subscriptions}
            async with running(make(broker, Role.MONITOR, name, **options)):
                await inbox.until("config")
            assert sessions == [expected]
        await sender.publish(TOPICS.config(name), b"", retain=True)


async def test_another_client_with_the_same_name_ends_the_connection(broker: Broker) -> None:
    """Mosquitto before 2.0.15 closes the connection without a reason; later versions give one."""
    name, lost = new_monitor(), list[Lost]()
    never = lambda lost, failures: 3600.0  # noqa: E731
    first = make(broker, Role.MONITOR, name, on_lost=lost.append, back_off=never)
    async with running(first), running(second := make(broker, Role.MONITOR, name)):
        await wait_until(lambda: lost)
        assert lost[0].code in (SESSION_TAKEN_OVER, None)
        assert lost[0].lasted > 0
        assert not first.connected
        assert second.connected


SILENT = b"\x20\x06\x00\x00\x03\x13\x00\x01"  # CONNACK: success, keepalive of 1 s
PING, PONG = b"\xc0\x00", b"\xd0\x00"
GIVEN_UP = 20.0
"""Seconds within which a session gives up a broker that does not answer the login."""


async def test_disconnect_reason_sent_together_with_the_connack_is_reported(transport: Transport) -> None:
    lost: list[Lost] = []
    async with (
        a_broker_that_says(transport, WELCOME + TAKEN_OVER) as (address, _),
        running(stranger(address, lost), ready=False),
    ):
        await wait_until(lambda: lost)
    assert lost[0].taken_over


async def test_session_disconnects_from_a_broker_that_falls_silent(transport: Transport) -> None:
    lost: list[Lost] = []
    async with a_broker_that_says(transport, SILENT) as (address, _), running(stranger(address, lost)):
        await wait_until(lambda: lost)
    assert (lost[0].reason, lost[0].code) == ("the broker is silent", 0x8D)
    assert lost[0].lasted >= 1.0


async def test_session_stays_connected_to_a_broker_that_answers_pings(transport: Transport) -> None:
    pings = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pings
        await reader.read(1_000)
        writer.write(SILENT)
        while PING in await reader.read(1_000):
            pings += 1
            writer.write(PONG)
        writer.close()

    lost: list[Lost] = []
    async with listening(transport, answer) as address, running(stranger(address, lost)):
        await wait_until(lambda: pings == 3)
    assert not lost


async def test_half_open_connection_is_replaced(broker: Broker) -> None:
    lost: list[Lost] = []
    async with broker.proxy() as proxy:
        session = worker(broker, port=proxy.port, on_lost=lost.append, keepalive=1)
        async with running(session):
            proxy.pause()
            await wait_until(lambda: lost)
            proxy.resume()
            await wait_until(lambda: session.connections >= 2)
            await session.publish(new_topic(), b"x", timeout=PATIENCE)
    assert lost[0].lasted >= 1.0


async def test_broker_that_never_completes_the_connack_is_given_up_in_time(transport: Transport) -> None:
    lost: list[Lost] = []
    broker = a_broker_that_says(transport, WELCOME[:3])
    async with broker as (address, counts), running(stranger(address, lost), ready=False):
        await wait_until(lambda: lost, GIVEN_UP)
        await wait_until(lambda: counts[1] >= 1)  # the connection is closed
        await wait_until(lambda: counts[0] >= 2)
    assert lost[0].reason and lost[0].lasted == 0.0


@pytest.mark.parametrize("how", ["stopped", "killed", "cut"])
async def test_publishing_continues_after_any_end_of_the_connection(fresh_broker: Broker, how: str) -> None:
    """A pending publish fails in time or succeeds; one that is repeated until it succeeds always does."""
    inbox, topic, lost = Inbox(), new_topic(), list[Lost]()
    async with fresh_broker.proxy() as proxy:
        receiver = worker(fresh_broker, subscriptions=[Subscription(topic, inbox.take)])
        sender = worker(fresh_broker, port=proxy.port, on_lost=lost.append)
        async with running(receiver, sender):
            sending = [asyncio.create_task(publish_until_it_succeeds(sender, topic, str(n))) for n in range(50)]
            await wait_until(lambda: inbox.messages)
            if how == "cut":
                await proxy.cut()
            else:
                await asyncio.to_thread(fresh_broker.stop if how == "stopped" else fresh_broker.kill)
                await asyncio.to_thread(fresh_broker.start)
            await wait_until(lambda: lost)
            await asyncio.gather(*sending)
            await sender.publish(topic, b"after")
            await wait_until(lambda: receiver.connected)
            assert sender.connections == 2


async def publish_until_it_succeeds(session: BrokerSession, topic: str, payload: str) -> None:
    async def succeeds() -> bool:
        with suppress(NotConnected):
            await session.publish(topic, payload.encode())
            return True
        return False

    await wait_until(succeeds, "a connection to publish by")


async def test_broker_that_closes_instead_of_answering_is_retried(transport: Transport) -> None:
    lost: list[Lost] = []
    async with (
        a_broker_that_says(transport, then_close=True) as (address, _),
        running(stranger(address, lost), ready=False),
    ):
        await wait_until(lambda: len(lost) >= 3)
    assert all(each.lasted == 0.0 for each in lost)


async def test_session_cancelled_before_the_connack_leaves_no_connection(transport: Transport) -> None:
    async with a_broker_that_says(transport) as (address, counts):
        async with running(stranger(address, []), ready=False):
            await wait_until(lambda: counts[0] == 1)
        await wait_until(lambda: counts[1] == 1)


NONSENSE = [
    b"\x20\x00",
    b"\x20\xff\xff\xff\xff\xff",
    b"\x20\x03\x00\x00\x7f",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    WELCOME + b"\x30\x01\x00",
    WELCOME + b"\x32\x05\x00\x01a\x00\x01",
    WELCOME + b"\x30\x08\x00\x02\xff\xfe\x00abc",
    WELCOME + b"\x30\x06\x00\x01a\x02\x99\x00",
    WELCOME + b"\x40\x02\x00\x07",
    WELCOME + b"\x90\x03\x00\x01\x00",
    WELCOME + b"\xe0\x01\x07",
    WELCOME + b"\xf0\x00" + b"\x00" * 50,
    WELCOME + WELCOME,
]


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_malformed_packets_from_the_broker_never_end_a_session(transport: Transport, nonsense: bytes) -> None:
    broker = a_broker_that_says(transport, nonsense, then_close=True)
    async with broker as (address, counts), running(stranger(address, []), ready=False):
        await wait_until(lambda: counts[0] >= 3)


async def test_session_ends_promptly_even_if_the_broker_does_not_read(broker: Broker) -> None:
    async with broker.proxy() as proxy:
        async with running(session := worker(broker, port=proxy.port)):
            proxy.pause()
            unheard = [asyncio.create_task(session.publish(new_topic(), bytes(500_000))) for _ in range(40)]
            await asyncio.sleep(0.1)  # until the connection accepts no more data
            began = time.monotonic()
        assert time.monotonic() - began < 4
        for failure in await asyncio.gather(*unheard, return_exceptions=True):
            assert isinstance(failure, NotConnected)


def test_back_off_of_workers_grows_up_to_ten_seconds() -> None:
    lost = Lost("", None, 0.0)
    for failures, most in [(1, 0.2), (2, 0.4), (5, 3.2), (7, 10.0), (500, 10.0)]:
        assert most / 2 <= quick_back_off(lost, failures) <= most


# ---- wills -----------------------------------------------------------------------------------------------------------


def will_of(name: str) -> Will:
    return Will(TOPICS.status(name), b"gone", delay=timedelta(0), expiry=HOUR, retain=False)


async def test_vanished_monitor_is_reported_by_its_will(broker: Broker) -> None:
    name, inbox = new_monitor(), Inbox()
    hearing = worker(broker, subscriptions=[Subscription(TOPICS.status(name), inbox.take)])
    async with (
        broker.proxy() as proxy,
        running(hearing, make(broker, Role.MONITOR, name, port=proxy.port, will=will_of(name))),
    ):
        proxy.refuse()
        await proxy.cut()
        await inbox.until("gone")


async def test_session_that_ends_cleanly_sends_no_will(broker: Broker) -> None:
    name, inbox = new_monitor(), Inbox()
    async with running(hearing := worker(broker, subscriptions=[Subscription(TOPICS.status(name), inbox.take)])):
        async with running(make(broker, Role.MONITOR, name, will=will_of(name))):
            pass
        async with running(make(broker, Role.MONITOR, name)):  # the broker has now handled the end of the first session
            pass
        await hearing.publish(TOPICS.status(name), b"mark")
        await inbox.until("mark")
    assert inbox.payloads == ["mark"]

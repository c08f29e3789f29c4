"""Test the broker session with a real Mosquitto: messages, and actions that the broker refuses."""

import asyncio
from datetime import timedelta

import pytest

from auth.tokens import Role
from runtime.mqtt.session import BrokerSession, Incoming, Lost, PublishRefused, Subscription, TooLarge, Will
from schema.topics import shared
from testbed.fixtures.broker import Broker, Transport
from testbed.fixtures.broker_sessions import (
    HOUR,
    TOPICS,
    Inbox,
    make,
    new_monitor,
    new_topic,
    running,
    worker,
)
from testbed.waiting import PATIENCE, wait_until


@pytest.fixture
def broker(broker: Broker, transport: Transport) -> Broker:
    """The session-scoped broker, reached by each transport in turn."""
    return broker.via(transport)


# ---- messages --------------------------------------------------------------------------------------------------------


async def test_message_arrives_with_all_of_its_properties(broker: Broker) -> None:
    inbox, topic = Inbox(), new_topic()
    async with running(worker(broker, subscriptions=[Subscription(topic, inbox.take)]), sender := worker(broker)):
        await sender.publish(
            topic, b"hello", response_topic="/test/answers/a/1", correlation=b"\x00\xff", user_properties=[("a", "1")]
        )
        await inbox.until("hello")
    assert inbox.messages == [Incoming(topic, b"hello", False, "/test/answers/a/1", b"\x00\xff", (("a", "1"),))]


async def test_message_goes_to_the_first_matching_subscription(broker: Broker) -> None:
    one, rest, topic = Inbox(), Inbox(), new_topic()
    subscriptions = [Subscription(f"{topic}/one", one.take), Subscription(f"{topic}/#", rest.take)]
    async with running(session := worker(broker, subscriptions=subscriptions)):
        await session.publish(f"{topic}/one", b"1")
        await session.publish(f"{topic}/two", b"2")
        await rest.until("2")
    # With overlapping subscriptions a message may arrive twice, but never at the wrong handler.
    assert set(one.payloads) == {"1"}
    assert rest.payloads == ["2"]


async def test_group_shares_published_messages(broker: Broker) -> None:
    first, second, topic = Inbox(), Inbox(), new_topic()
    members = [worker(broker, subscriptions=[Subscription(shared("g", topic), i.take)]) for i in (first, second)]
    async with running(*members, sender := worker(broker)):
        sent = [str(number) for number in range(20)]
        for payload in sent:
            await sender.publish(topic, payload.encode())
        await wait_until(lambda: len(first.messages) + len(second.messages) == 20)
    assert sorted(first.payloads + second.payloads, key=int) == sent
    assert first.messages and second.messages


async def test_failing_handler_is_logged_and_affects_no_other_message(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, topic = Inbox(), new_topic()

    def hostile(message: Incoming) -> None:
        inbox.take(message)
        if message.payload == b"bad":
            raise ZeroDivisionError

    async with running(session := worker(broker, subscriptions=[Subscription(topic, hostile)])):
        await session.publish(topic, b"bad")
        await session.publish(topic, b"good")
        await inbox.until("good")
        assert session.connections == 1
    assert f"message on {topic} could not be handled" in caplog.messages


async def test_watch_receives_retained_messages_and_ends_with_its_block(broker: Broker) -> None:
    inbox, topic = Inbox(), new_topic()
    async with running(session := worker(broker)):
        await session.publish(topic, b"kept", retain=True)
        for _ in range(2):
            async with session.watching(Subscription(topic, inbox.take)):
                await wait_until(lambda: inbox.payloads.count("kept") > 0)
            inbox.messages.clear()
        await session.publish(topic, b"", retain=True)
        await session.publish(topic, b"unheard")
        assert inbox.messages == []


async def test_expired_retained_message_is_not_delivered(broker: Broker) -> None:
    inbox, topic = Inbox(), new_topic()
    async with running(sender := worker(broker)):
        await sender.publish(topic, b"short", retain=True, expiry=timedelta(seconds=1))
        await sender.publish(f"{topic}/2", b"long", retain=True, expiry=HOUR)
        await until_expired(sender, topic)
        async with running(worker(broker, subscriptions=[Subscription(f"{topic}/#", inbox.take)])):
            await inbox.until("long")
        await sender.publish(f"{topic}/2", b"", retain=True)
    assert inbox.payloads == ["long"]


async def until_expired(session: BrokerSession, topic: str) -> None:
    async def is_gone() -> bool:
        inbox = Inbox()
        async with session.watching(Subscription(topic, inbox.take)):
            await session.publish(f"{topic}/mark", b"")
        return not inbox.messages

    await wait_until(is_gone, f"the end of what is retained at {topic}")


# ---- refused actions -------------------------------------------------------------------------------------------------


async def test_refused_publish_raises_and_keeps_the_connection(broker: Broker) -> None:
    name = new_monitor()
    async with running(monitor := make(broker, Role.MONITOR, name)):
        with pytest.raises(
            PublishRefused, match=r"refused a message on /test/monitors/results/other.*: Not authorized"
        ):
            await monitor.publish(TOPICS.results("other.test.mon.example", "v4"), b"{}")
        await monitor.publish(TOPICS.results(name, "v4"), b"{}")
        assert monitor.connections == 1


@pytest.mark.parametrize("topic", ["", "#", "/test/+/x", "/test/" + "x" * 70_000, "/test/\0", "/test/\n", "/\ud800"])
async def test_invalid_topic_is_refused_and_keeps_the_connection(broker: Broker, topic: str) -> None:
    async with running(session := worker(broker)):
        with pytest.raises(PublishRefused):
            await session.publish(topic, b"x")
        await session.publish(new_topic(), b"x")
        assert session.connections == 1


async def test_refused_subscription_is_reported_and_retried(broker: Broker) -> None:
    lost: list[Lost] = []
    name = new_monitor()
    subscription = Subscription("/test/#", Inbox().take)
    session = make(broker, Role.MONITOR, name, subscriptions=[subscription], on_lost=lost.append)
    async with running(session, ready=False):
        await wait_until(lambda: len(lost) >= 2)
        assert not session.connected
    assert "not allowed to subscribe to /test/#" in lost[0].reason


async def test_defect_in_a_callback_is_not_taken_for_a_lost_connection(broker: Broker) -> None:
    def broken(session_present: bool) -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        async with asyncio.timeout(PATIENCE):
            await worker(broker, on_session=broken).run()


async def test_session_adapts_to_a_broker_with_narrow_limits() -> None:
    """Mosquitto refuses a retained will, ends the connection after a large packet, and shortens the keepalive."""
    narrow = {
        "max_packet_size 589824": "max_packet_size 3000\nretain_available false",
        "max_keepalive 300": "max_keepalive 20",
    }
    name = new_monitor()
    will = Will(TOPICS.status(name), b"{}", timedelta(seconds=1), timedelta(hours=1))
    lost: list[Lost] = []
    with Broker(changed=narrow) as broker:
        session = make(broker, Role.MONITOR, name, will=will, on_lost=lost.append, keepalive=60)
        async with running(session):
            assert [one.code for one in lost] == [0x9A]
            assert (session.limits.packet, session.limits.retain) == (3_000, False)
            assert session._client is not None and session._client._client._keepalive == 20
            with pytest.raises(TooLarge):
                await session.publish(TOPICS.results(name, "v4"), b"x" * 3_000)
            await session.publish(TOPICS.results(name, "v4"), b"x" * 2_000)
            await session.publish(TOPICS.status(name), b"{}", retain=True)
            assert session.connections == 1

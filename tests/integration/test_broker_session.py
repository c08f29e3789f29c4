"""The broker session against a real Mosquitto: what it promises when connections, tokens and brokers come and go."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fixtures.broker import Broker

from auth.tokens import Role
from runtime import broker as runtime_broker
from runtime.broker import (
    BrokerAddress,
    BrokerSession,
    Identity,
    Incoming,
    Lost,
    NotConnected,
    PublishRefused,
    Subscription,
    Will,
    quick_back_off,
)
from runtime.broker_types import SESSION_TAKEN_OVER
from runtime.mqtt_client import Client
from schema.topics import Topics, shared
from simulation.tcp_proxy import TcpProxy

TOPICS = Topics("test")
PATIENCE = 15.0
HOUR = timedelta(hours=1)


class Inbox:
    """What a session received."""

    def __init__(self) -> None:
        self.messages: list[Incoming] = []

    def take(self, message: Incoming) -> None:
        self.messages.append(message)

    @property
    def payloads(self) -> list[str]:
        return [message.payload.decode() for message in self.messages]

    async def until(self, *payloads: str) -> None:
        await until(lambda: set(payloads) <= set(self.payloads))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def new_monitor() -> str:
    return f"s{secrets.token_hex(4)}.test.mon.example"


def at_once(lost: Lost, failures: int) -> float:
    return 0.02


def make(broker: Broker, role: Role, name: str, **options: Any) -> BrokerSession:
    """A session of ``name``; workers get a client id of their own, as their frame gives them."""
    client_id = options.pop("client_id", name if role is Role.MONITOR else f"{name}/{secrets.token_hex(4)}")
    address = BrokerAddress("127.0.0.1", options.pop("port", broker.port))
    token = options.pop("token", lambda: broker.token(role, name))
    return BrokerSession(address, Identity(name, client_id), token, **{"back_off": at_once, **options})


@asynccontextmanager
async def running(*sessions: BrokerSession, ready: bool = True) -> AsyncIterator[None]:
    """The sessions run until the block ends, then leave in order."""
    async with asyncio.TaskGroup() as group:  # a session that fails ends the test
        tasks = [group.create_task(session.run()) for session in sessions]
        async with asyncio.timeout(PATIENCE):
            for session in sessions if ready else ():
                await session.wait_ready()
        yield
        for task in tasks:
            task.cancel()


def worker(broker: Broker, **options: Any) -> BrokerSession:
    return make(broker, Role.SERVER, "scorer", **options)


def new_topic() -> str:
    return f"/test/events/{secrets.token_hex(4)}"


@pytest.mark.parametrize("welcome", [True, False])
async def test_a_session_that_is_told_to_end_as_the_broker_answers_its_login_ends(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, welcome: bool
) -> None:
    answered = Client._on_connack

    def answered_and_told(client: Client, *given: Any) -> None:
        answered(client, *given)
        monkeypatch.undo()  # it is told once
        session.cancel()

    monkeypatch.setattr(Client, "_on_connack", answered_and_told)
    options = {} if welcome else {"token": lambda: "no token"}
    session = asyncio.create_task(worker(broker, **options).run())
    await asyncio.wait({session}, timeout=PATIENCE)
    ended = session.done()
    session.cancel()  # should the first time have been lost
    await asyncio.wait({session})
    assert ended and session.cancelled()


# ---- messages ------------------------------------------------------------------------------------------------------


async def test_a_message_arrives_with_all_that_belongs_to_it(broker: Broker) -> None:
    inbox, topic = Inbox(), new_topic()
    async with running(worker(broker, subscriptions=[Subscription(topic, inbox.take)]), sender := worker(broker)):
        await sender.publish(
            topic, b"hello", response_topic="/test/answers/a/1", correlation=b"\x00\xff", user_properties=[("a", "1")]
        )
        await inbox.until("hello")
    assert inbox.messages == [Incoming(topic, b"hello", False, "/test/answers/a/1", b"\x00\xff", (("a", "1"),))]


async def test_each_message_goes_to_the_first_subscription_that_takes_it(broker: Broker) -> None:
    one, rest, topic = Inbox(), Inbox(), new_topic()
    subscriptions = [Subscription(f"{topic}/one", one.take), Subscription(f"{topic}/#", rest.take)]
    async with running(session := worker(broker, subscriptions=subscriptions)):
        await session.publish(f"{topic}/one", b"1")
        await session.publish(f"{topic}/two", b"2")
        await rest.until("2")
    # Overlapping subscriptions may bring a message twice; it never goes astray.
    assert set(one.payloads) == {"1"}
    assert rest.payloads == ["2"]


async def test_a_group_shares_what_is_published(broker: Broker) -> None:
    first, second, topic = Inbox(), Inbox(), new_topic()
    members = [worker(broker, subscriptions=[Subscription(shared("g", topic), i.take)]) for i in (first, second)]
    async with running(*members, sender := worker(broker)):
        sent = [str(number) for number in range(20)]
        for payload in sent:
            await sender.publish(topic, payload.encode())
        await until(lambda: len(first.messages) + len(second.messages) == 20)
    assert sorted(first.payloads + second.payloads, key=int) == sent
    assert first.messages and second.messages


async def test_a_handler_that_fails_harms_nobody(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_a_watch_is_told_what_is_retained_and_ends_with_its_block(broker: Broker) -> None:
    inbox, topic = Inbox(), new_topic()
    async with running(session := worker(broker)):
        await session.publish(topic, b"kept", retain=True)
        for _ in range(2):
            async with session.watching(Subscription(topic, inbox.take)):
                await until(lambda: inbox.payloads.count("kept") > 0)
            inbox.messages.clear()
        await session.publish(topic, b"", retain=True)
        await session.publish(topic, b"unheard")
        assert inbox.messages == []


async def test_a_message_that_expires_is_not_kept(broker: Broker) -> None:
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
    async with asyncio.timeout(PATIENCE):
        while True:
            inbox = Inbox()
            async with session.watching(Subscription(topic, inbox.take)):
                await session.publish(f"{topic}/mark", b"")
            if not inbox.messages:
                return
            await asyncio.sleep(0.1)


# ---- what is not allowed -------------------------------------------------------------------------------------------


async def test_a_refused_publish_says_so_and_the_connection_lives(broker: Broker) -> None:
    name = new_monitor()
    async with running(monitor := make(broker, Role.MONITOR, name)):
        with pytest.raises(
            PublishRefused, match=r"refused a message on /test/monitors/results/other.*: Not authorized"
        ):
            await monitor.publish(TOPICS.results("other.test.mon.example", "v4"), b"{}")
        await monitor.publish(TOPICS.results(name, "v4"), b"{}")
        assert monitor.connections == 1


@pytest.mark.parametrize("topic", ["", "#", "/test/+/x", "/test/" + "x" * 70_000, "/test/\0", "/test/\n", "/\ud800"])
async def test_an_impossible_topic_is_refused_and_the_connection_lives(broker: Broker, topic: str) -> None:
    async with running(session := worker(broker)):
        with pytest.raises(PublishRefused):
            await session.publish(topic, b"x")
        await session.publish(new_topic(), b"x")
        assert session.connections == 1


async def test_a_refused_subscription_is_named_and_tried_again(broker: Broker) -> None:
    lost: list[Lost] = []
    name = new_monitor()
    subscription = Subscription("/test/#", Inbox().take)
    session = make(broker, Role.MONITOR, name, subscriptions=[subscription], on_lost=lost.append)
    async with running(session, ready=False):
        await until(lambda: len(lost) >= 2)
        assert not session.connected
    assert "not allowed to subscribe to /test/#" in lost[0].reason


async def test_a_wrong_token_is_refused_and_a_right_one_later_is_taken(broker: Broker) -> None:
    lost: list[Lost] = []
    tokens = ["nonsense", "", broker.token(Role.MONITOR, new_monitor())]
    name = new_monitor()
    source = lambda: tokens.pop(0) if tokens else broker.token(Role.MONITOR, name)  # noqa: E731
    async with running(make(broker, Role.MONITOR, name, token=source, on_lost=lost.append)):
        assert len(lost) == 3
    assert all("uthorized" in each.reason for each in lost)
    assert not any("nonsense" in each.reason for each in lost)


async def test_a_token_source_that_fails_is_asked_again(broker: Broker) -> None:
    lost: list[Lost] = []
    failures = [OSError("the API is away"), KeyError("x")]
    name = new_monitor()

    async def source() -> str:
        if failures:
            raise failures.pop(0)
        return broker.token(Role.MONITOR, name)

    async with running(make(broker, Role.MONITOR, name, token=source, on_lost=lost.append)):
        assert [each.reason for each in lost] == ["no token: the API is away", "no token: 'x'"]
        assert lost[0].lasted == 0.0


@pytest.mark.parametrize("text", ["x" * 70_000, "\ud800"])
async def test_a_token_that_no_packet_can_hold_is_asked_for_again(broker: Broker, text: str) -> None:
    lost: list[Lost] = []
    tokens = [text]
    name = new_monitor()
    source = lambda: tokens.pop() if tokens else broker.token(Role.MONITOR, name)  # noqa: E731
    async with running(make(broker, Role.MONITOR, name, token=source, on_lost=lost.append)):
        [reason] = [each.reason for each in lost]
    assert reason
    assert text not in reason


@pytest.mark.parametrize("host", ["a..example", "x" * 70])
async def test_a_host_that_is_none_is_said_and_tried_again(host: str) -> None:
    lost: list[Lost] = []
    address, who = BrokerAddress(host, 1), Identity("scorer", "scorer/1")
    session = BrokerSession(address, who, lambda: "token", back_off=at_once, on_lost=lost.append)
    async with running(session, ready=False):
        await until(lambda: len(lost) >= 2)
    assert lost[0].reason.startswith(f"{host}: ")


async def test_a_defect_of_ours_is_not_taken_for_a_lost_connection(broker: Broker) -> None:
    def broken(session_present: bool) -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        async with asyncio.timeout(PATIENCE):
            await worker(broker, on_session=broken).run()


# ---- connections that end ------------------------------------------------------------------------------------------


async def test_nobody_there_is_said_once_and_waited_for(fresh_broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    lost: list[Lost] = []
    fresh_broker.stop()
    session = worker(fresh_broker, on_lost=lost.append)
    async with running(session, ready=False):
        with pytest.raises(NotConnected):
            await session.publish(new_topic(), b"x", timeout=0.1)
        with pytest.raises(NotConnected):
            await session.publish(new_topic(), b"x", qos=0)
        await until(lambda: len(lost) >= 5)
        assert len(caplog.messages) == 1
        assert "Connection refused" in caplog.text
        await asyncio.to_thread(fresh_broker.start)
        await session.publish(new_topic(), b"x", timeout=PATIENCE)
    assert all(each.lasted == 0.0 for each in lost)


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_after_the_broker_was_away_the_session_subscribes_again(fresh_broker: Broker, end: str) -> None:
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
        await until(lambda: session.connections == 2)
        await session.publish(f"{topic}/a", b"1")
        await session.publish(f"{topic}/b", b"2")
        await inbox.until("1", "2")
    assert len(ready) == 2


async def test_a_publish_whose_connection_is_cut_fails_and_the_next_succeeds(broker: Broker) -> None:
    lost: list[Lost] = []
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
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


async def test_a_broker_that_does_not_answer_is_not_waited_for_longer_than_asked(broker: Broker) -> None:
    async with TcpProxy("127.0.0.1", broker.port) as proxy, running(session := worker(broker, port=proxy.port)):
        proxy.pause()
        with pytest.raises(NotConnected, match=r"did not answer within 0\.2 s"):
            await session.publish(new_topic(), b"x", timeout=0.2)
        proxy.resume()


async def test_a_kept_session_gets_what_was_published_meanwhile_but_nothing_retained_again(broker: Broker) -> None:
    name, inbox, sessions = new_monitor(), Inbox(), list[bool]()
    topic = TOPICS.acks(name, "v4")
    subscriptions = [Subscription(TOPICS.acks(name, "+"), inbox.take), Subscription(TOPICS.config(name), inbox.take)]
    async with TcpProxy("127.0.0.1", broker.port) as proxy, running(sender := worker(broker)):
        await sender.publish(TOPICS.config(name), b"config", retain=True)
        options = {"port": proxy.port, "keep": HOUR, "on_session": sessions.append, "subscriptions": subscriptions}
        async with running(monitor := make(broker, Role.MONITOR, name, **options)):
            await inbox.until("config")
            await monitor.publish(TOPICS.status(name), b"mark")  # the broker has read that "config" arrived
            proxy.refuse()
            await proxy.cut()
            await until(lambda: not monitor.connected)
            await sender.publish(topic, b"meanwhile")
            await proxy.accept()
            await inbox.until("meanwhile")
            await sender.publish(topic, b"after")
            await inbox.until("after")
        await sender.publish(TOPICS.config(name), b"", retain=True)
    assert sessions[0] is False
    assert sessions[-1] is True
    assert inbox.payloads == ["config", "meanwhile", "after"]


async def test_a_new_process_with_a_kept_session_is_told_everything_retained(broker: Broker) -> None:
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


async def test_another_client_of_our_name_ends_the_session(broker: Broker) -> None:
    """Mosquitto before 2.0.15 closes the connection without a word, later ones say why."""
    name, lost = new_monitor(), list[Lost]()
    never = lambda lost, failures: 3600.0  # noqa: E731
    first = make(broker, Role.MONITOR, name, on_lost=lost.append, back_off=never)
    async with running(first), running(second := make(broker, Role.MONITOR, name)):
        await until(lambda: lost)
        assert lost[0].code in (SESSION_TAKEN_OVER, None)
        assert lost[0].lasted > 0
        assert not first.connected
        assert second.connected


SILENT = b"\x20\x06\x00\x00\x03\x13\x00\x01"  # CONNACK: success, keepalive of 1 s
PING, PONG = b"\xc0\x00", b"\xd0\x00"
WELCOME = b"\x20\x03\x00\x00\x00"  # CONNACK: success, no properties
TAKEN_OVER = b"\xe0\x02\x8e\x00"  # DISCONNECT: session taken over, no properties


@asynccontextmanager
async def a_broker_that_says(
    *answers: bytes, then_close: bool = False
) -> AsyncIterator[tuple[BrokerAddress, list[int]]]:
    """Its address, and how many connections it has had and how many of them ended."""
    counts = [0, 0]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts[0] += 1
        with suppress(ConnectionError):
            await reader.read(1_000)
            for answer in answers:
                writer.write(answer)
                await writer.drain()
            while not then_close and await reader.read(1_000):
                pass
        writer.close()
        counts[1] += 1

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1]), counts


def stranger(address: BrokerAddress, lost: list[Lost]) -> BrokerSession:
    return BrokerSession(address, Identity("a", "a"), lambda: "t", back_off=at_once, on_lost=lost.append)


async def test_the_reason_that_a_broker_gives_is_known_also_with_its_welcome() -> None:
    lost: list[Lost] = []
    async with a_broker_that_says(WELCOME + TAKEN_OVER) as (address, _), running(stranger(address, lost), ready=False):
        await until(lambda: lost)
    assert lost[0].taken_over


async def test_a_broker_that_falls_silent_is_left() -> None:
    lost: list[Lost] = []
    async with a_broker_that_says(SILENT) as (address, _), running(stranger(address, lost)):
        await until(lambda: lost)
    assert (lost[0].reason, lost[0].code) == ("the broker is silent", 0x8D)
    assert lost[0].lasted >= 1.0


async def test_a_broker_that_answers_pings_is_kept() -> None:
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
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1])
        async with running(stranger(address, lost)):
            await until(lambda: pings == 3)
    assert not lost


async def test_a_broker_that_closes_instead_of_answering_is_not_waited_for() -> None:
    lost: list[Lost] = []
    async with a_broker_that_says(then_close=True) as (address, _), running(stranger(address, lost), ready=False):
        await until(lambda: len(lost) >= 3)
    assert all(each.lasted == 0.0 for each in lost)


async def test_a_session_that_ends_before_it_was_welcomed_leaves_no_connection() -> None:
    async with a_broker_that_says() as (address, counts):
        async with running(stranger(address, []), ready=False):
            await until(lambda: counts[0] == 1)
        await until(lambda: counts[1] == 1)


NONSENSE = [
    b"\x20\x00",
    b"\x20\xff\xff\xff\xff\xff",
    b"\x20\x03\x00\x00\x7f",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    WELCOME + b"\x30\x01\x00",
    WELCOME + b"\x32\x05\x00\x01a\x00\x01",
    # The library panics over text that is no UTF-8, and Python tells of the decoder's error besides.
    pytest.param(
        WELCOME + b"\x30\x08\x00\x02\xff\xfe\x00abc",
        marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ),
    WELCOME + b"\x30\x06\x00\x01a\x02\x99\x00",
    WELCOME + b"\x40\x02\x00\x07",
    WELCOME + b"\x90\x03\x00\x01\x00",
    WELCOME + b"\xe0\x01\x07",
    WELCOME + b"\xf0\x00" + b"\x00" * 50,
    WELCOME + WELCOME,
]


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_a_broker_that_talks_nonsense_never_ends_a_session(nonsense: bytes) -> None:
    broker = a_broker_that_says(nonsense, then_close=True)
    async with broker as (address, counts), running(stranger(address, []), ready=False):
        await until(lambda: counts[0] >= 3)


async def test_a_session_ends_soon_also_when_the_broker_does_not_hear_it(broker: Broker) -> None:
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        async with running(session := worker(broker, port=proxy.port)):
            proxy.pause()
            unheard = [asyncio.create_task(session.publish(new_topic(), bytes(500_000))) for _ in range(40)]
            await asyncio.sleep(0.1)  # until the line takes no more
            began = time.monotonic()
        assert time.monotonic() - began < 4
        for failure in await asyncio.gather(*unheard, return_exceptions=True):
            assert isinstance(failure, NotConnected)


def test_workers_try_again_at_once_then_ever_later_up_to_ten_seconds() -> None:
    lost = Lost("", None, 0.0)
    for failures, most in [(1, 0.2), (2, 0.4), (5, 3.2), (7, 10.0), (500, 10.0)]:
        assert most / 2 <= quick_back_off(lost, failures) <= most


# ---- wills ---------------------------------------------------------------------------------------------------------


def will_of(name: str) -> Will:
    return Will(TOPICS.status(name), b"gone", delay=timedelta(0), expiry=HOUR, retain=False)


async def test_a_monitor_that_vanishes_is_reported_by_its_will(broker: Broker) -> None:
    name, inbox = new_monitor(), Inbox()
    hearing = worker(broker, subscriptions=[Subscription(TOPICS.status(name), inbox.take)])
    async with (
        TcpProxy("127.0.0.1", broker.port) as proxy,
        running(hearing, make(broker, Role.MONITOR, name, port=proxy.port, will=will_of(name))),
    ):
        proxy.refuse()
        await proxy.cut()
        await inbox.until("gone")


async def test_a_session_that_ends_in_order_leaves_no_will(broker: Broker) -> None:
    name, inbox = new_monitor(), Inbox()
    async with running(hearing := worker(broker, subscriptions=[Subscription(TOPICS.status(name), inbox.take)])):
        async with running(make(broker, Role.MONITOR, name, will=will_of(name))):
            pass
        async with running(make(broker, Role.MONITOR, name)):  # the broker has dealt with the end of the first
            pass
        await hearing.publish(TOPICS.status(name), b"mark")
        await inbox.until("mark")
    assert inbox.payloads == ["mark"]


# ---- tokens that expire --------------------------------------------------------------------------------------------


async def test_a_renewed_token_reconnects_in_time_and_loses_nothing(broker: Broker) -> None:
    """Tokens of 3 s are renewed after 2 s; a sender and a receiver live through three of them."""
    name, inbox, lost = new_monitor(), Inbox(), list[Lost]()
    lifetime = timedelta(seconds=3)
    receiver = make(
        broker,
        Role.MONITOR,
        name,
        token=lambda: broker.token(Role.MONITOR, name, lifetime=lifetime),
        subscriptions=[Subscription(TOPICS.acks(name, "v4"), inbox.take)],
        keep=HOUR,
        on_lost=lost.append,
    )
    sender = worker(
        broker, token=lambda: broker.token(Role.SERVER, "scorer", lifetime=lifetime), keep=HOUR, on_lost=lost.append
    )
    sent: list[str] = []
    async with running(receiver, sender):
        while min(receiver.connections, sender.connections) < 4:
            payload = str(len(sent))
            await sender.publish(TOPICS.acks(name, "v4"), payload.encode())
            sent.append(payload)
            await asyncio.sleep(0.005)
        await inbox.until(*sent)
    assert lost == [], "a renewal is no loss, and no token expires while it is used"
    assert len(sent) > 100
    assert list(dict.fromkeys(inbox.payloads)) == sent, "in order; what was repeated on reconnecting aside"


async def test_what_is_unanswered_when_the_token_is_renewed_is_waited_for(broker: Broker) -> None:
    """On a slow line something is always under way; what nobody answers would be sent twice, or be lost."""
    lost: list[Lost] = []
    lifetime = timedelta(seconds=3)
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        proxy.delay(0.15)
        token = lambda: broker.token(Role.SERVER, "scorer", lifetime=lifetime)  # noqa: E731
        session = worker(broker, port=proxy.port, token=token, on_lost=lost.append)
        async with running(session):
            while session.connections < 3:
                await asyncio.gather(*(session.publish(new_topic(), b"x") for _ in range(5)))
    assert lost == []


async def test_a_session_that_is_told_to_end_while_its_connection_ends_does_end(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in the very turn of the event loop in which the connection of the old token is over."""
    monkeypatch.setattr(runtime_broker, "seconds_to_renewal", lambda token: 0.05)
    lifetimes = iter(range(60, 10_000))
    token = lambda: broker.token(Role.SERVER, "scorer", lifetime=timedelta(seconds=next(lifetimes)))  # noqa: E731
    session = worker(broker, token=token)
    running_session = asyncio.create_task(session.run())
    await session.wait_ready()
    client = session._client
    assert client is not None
    client.lost.add_done_callback(lambda _: running_session.cancel())
    await asyncio.wait({running_session}, timeout=PATIENCE)
    assert running_session.cancelled()


async def test_a_source_without_a_newer_token_is_asked_again_later(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_broker, "OPAQUE", 0.05)
    monkeypatch.setattr(runtime_broker, "seconds_to_renewal", lambda token: 0.05)
    name, asked = new_monitor(), 0
    tokens = [broker.token(Role.MONITOR, name), broker.token(Role.MONITOR, name)]

    def source() -> str:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise OSError("away")
        return tokens[asked >= 6]

    async with running(session := make(broker, Role.MONITOR, name, token=source)):
        await until(lambda: asked == 5)
        assert session.connections == 1
        await until(lambda: session.connections == 2)


# ---- TLS -----------------------------------------------------------------------------------------------------------


async def test_a_ca_file_that_is_none_ends_the_process(tmp_path: Path) -> None:
    for content in (None, b"no certificate"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        session = BrokerSession(BrokerAddress("127.0.0.1", 1, path), Identity("a", "a"), lambda: "t")
        with pytest.raises(OSError, match=r"No such file|PEM|NO_CERTIFICATE"):
            await session.run()


async def test_a_broker_that_never_shakes_hands_is_given_up_soon_and_holds_nobody_up(
    broker: Broker, tmp_path: Path
) -> None:
    lost: list[Lost] = []
    ca = tmp_path / "ca.pem"
    ca.write_bytes(_self_signed())
    async with TcpProxy("127.0.0.1", broker.port) as silent:
        silent.pause()
        address = BrokerAddress("127.0.0.1", silent.port, ca)
        session = BrokerSession(address, Identity("a", "a"), lambda: "t", back_off=at_once, on_lost=lost.append)
        began = time.monotonic()
        async with running(session, ready=False):
            await until(lambda: lost)
            told = time.monotonic()
        ended = time.monotonic()
    assert told - began < 7
    assert ended - told < 1
    assert "timed out" in lost[0].reason


def _self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + HOUR)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("host", ["a" * 64, "..", "x.invalid"])
async def test_a_host_that_does_not_exist_is_complained_about(host: str) -> None:
    lost: list[Lost] = []
    session = BrokerSession(
        BrokerAddress(host, 1883), Identity("a", "a"), lambda: "t", back_off=at_once, on_lost=lost.append
    )
    async with running(session, ready=False):
        await until(lambda: lost)
    assert lost[0].reason


def test_an_address_says_whether_it_is_encrypted() -> None:
    assert str(BrokerAddress("localhost", 1883)) == "mqtt://localhost:1883"
    assert str(BrokerAddress("broker.example", 8883, Path("ca.pem"))) == "mqtts://broker.example:8883"


async def test_no_token_is_ever_logged(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    name = new_monitor()
    tokens = [broker.token(Role.MONITOR, new_monitor()), broker.token(Role.MONITOR, name)]
    used = list(tokens)
    async with running(make(broker, Role.MONITOR, name, token=lambda: tokens.pop(0))):
        pass
    assert caplog.text
    assert not any(token in caplog.text for token in used)

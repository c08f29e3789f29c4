"""Test the broker session with a real Mosquitto: invalid and expired tokens, TLS, and the broker's address."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Never

import pytest

from auth.tokens import Role
from runtime.mqtt import session as runtime_broker
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Lost, Subscription
from testbed.fixtures.broker import Broker, Transport
from testbed.fixtures.broker_sessions import (
    HOUR,
    REFUSAL,
    TAKEN_OVER,
    TOPICS,
    WELCOME,
    Inbox,
    at_once,
    listening,
    make,
    new_monitor,
    new_topic,
    running,
    stranger,
    worker,
)
from testbed.tcp_proxy import Direction
from testbed.tls import LocalCa
from testbed.waiting import PATIENCE, wait_until

TURNS = 40
"""Turns of the event loop, more than any step of a connection takes."""


@pytest.fixture
def broker(broker: Broker, transport: Transport) -> Broker:
    """The session-scoped broker, reached by each transport in turn."""
    return broker.via(transport)


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [WELCOME, REFUSAL, WELCOME + TAKEN_OVER], ids=["welcome", "refusal", "welcome and end"]
)
async def test_session_cancelled_while_the_broker_answers_its_login_ends(transport: Transport, answer: bytes) -> None:
    """Cancel the session in each turn of the event loop in which the answer arrives and is handled."""
    told = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(answer)
        for _ in range(turns):
            await asyncio.sleep(0)
        session.cancel()
        told.set()
        writer.close()

    async with listening(transport, talk) as address:
        for turns in range(TURNS):
            told.clear()
            session = asyncio.create_task(stranger(address, []).run())
            await told.wait()
            assert await ends(session), f"told after {turns} turns"


async def test_session_cancelled_while_connecting_ends_and_leaves_no_connection(broker: Broker) -> None:
    """Cancel the session after any number of bytes of handshake, login and subscribing."""
    async with broker.proxy() as proxy:
        proxy.slice(60)
        passed, connected = 0, False
        while not connected:
            before = proxy.octets(Direction.TO_CLIENT)
            session = worker(broker, port=proxy.port, subscriptions=[Subscription(new_topic(), Inbox().take)])
            run = asyncio.create_task(session.run())
            await wait_until(lambda: session.connected or proxy.octets(Direction.TO_CLIENT) - before >= passed)  # noqa: B023
            connected = session.connected
            run.cancel()
            assert await ends(run), f"told after {passed} octets"
            await wait_until(lambda: proxy.active == 0)
            passed += 30


async def ends(session: "asyncio.Task[Never]") -> bool:
    """Return whether a cancelled session ends soon, and by the cancellation."""
    await asyncio.wait({session}, timeout=4)
    ended = session.done()
    session.cancel()  # in case the first cancellation was lost
    await asyncio.wait({session})
    return ended and session.cancelled()


async def test_wrong_token_is_refused_and_a_later_valid_one_is_accepted(broker: Broker) -> None:
    lost: list[Lost] = []
    tokens = ["nonsense", "", broker.token(Role.MONITOR, new_monitor())]
    name = new_monitor()
    source = lambda: tokens.pop(0) if tokens else broker.token(Role.MONITOR, name)  # noqa: E731
    async with running(make(broker, Role.MONITOR, name, token=source, on_lost=lost.append)):
        assert len(lost) == 3
    assert all("uthorized" in each.reason for each in lost)
    assert not any("nonsense" in each.reason for each in lost)


async def test_failing_token_source_is_retried(broker: Broker) -> None:
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
async def test_token_that_no_packet_can_hold_is_requested_again(broker: Broker, text: str) -> None:
    lost: list[Lost] = []
    tokens = [text]
    name = new_monitor()
    source = lambda: tokens.pop() if tokens else broker.token(Role.MONITOR, name)  # noqa: E731
    async with running(make(broker, Role.MONITOR, name, token=source, on_lost=lost.append)):
        [reason] = [each.reason for each in lost]
    assert reason
    assert text not in reason


async def test_token_renewal_reconnects_in_time_and_loses_nothing(broker: Broker) -> None:
    """Tokens of 3 s are renewed after 2 s; sender and receiver renew theirs three times."""
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


async def test_token_renewal_waits_for_outstanding_acknowledgements(broker: Broker) -> None:
    """On a slow line some publish is always pending; without its acknowledgement it would be sent twice, or lost."""
    lost: list[Lost] = []
    lifetime = timedelta(seconds=3)
    async with broker.proxy() as proxy:
        proxy.delay(0.15)
        token = lambda: broker.token(Role.SERVER, "scorer", lifetime=lifetime)  # noqa: E731
        session = worker(broker, port=proxy.port, token=token, on_lost=lost.append)
        async with running(session):
            while session.connections < 3:
                await asyncio.gather(*(session.publish(new_topic(), b"x") for _ in range(5)))
    assert lost == []


async def test_replaced_connection_loses_no_message(broker: Broker) -> None:
    lost: list[Lost] = []
    async with running(session := worker(broker, on_lost=lost.append)):
        session.reconnect()  # before there is a connection: the first one is new enough
        await session.wait_ready()
        while session.connections < 4:
            before = session.connections
            session.reconnect()
            session.reconnect()
            while session.connections == before:
                await asyncio.gather(*(session.publish(new_topic(), b"x") for _ in range(5)))
            assert session.connections == before + 1
    assert lost == []


async def test_session_cancelled_while_its_connection_ends_does_end(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancel the session in each turn of the event loop in which the connection with the old token ends."""
    monkeypatch.setattr(runtime_broker, "seconds_to_renewal", lambda token: 0.05)
    lifetimes = iter(range(60, 10_000))
    token = lambda: broker.token(Role.SERVER, "scorer", lifetime=timedelta(seconds=next(lifetimes)))  # noqa: E731
    for turns in range(TURNS):
        session = worker(broker, token=token)
        run = asyncio.create_task(session.run())
        await session.wait_ready()
        while session.connected:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        run.cancel()
        assert await ends(run), f"told after {turns} turns"


@pytest.mark.parametrize("end", ["given again", "withheld"])
async def test_expired_token_ends_the_connection_but_not_the_session(broker: Broker, end: str) -> None:
    lost: list[Lost] = []
    name = new_monitor()
    expiring = broker.token(Role.MONITOR, name, lifetime=timedelta(seconds=2))
    tokens = [expiring]

    def source() -> str:
        if end == "withheld" and lost and tokens == [expiring]:
            raise OSError("the API is away")
        return tokens[-1]

    async with running(session := make(broker, Role.MONITOR, name, token=source, on_lost=lost.append)):
        await wait_until(lambda: len(lost) >= 3)
        assert not session.connected
        tokens.append(broker.token(Role.MONITOR, name))
        await session.publish(TOPICS.results(name, "v4"), b"{}", timeout=PATIENCE)
        assert session.connections == 2
    assert lost[0].lasted > 0
    assert all(each.lasted == 0.0 for each in lost[1:]), "an expired token is refused"


async def test_token_source_without_a_newer_token_is_asked_again_later(
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
        await wait_until(lambda: asked == 5)
        assert session.connections == 1
        await wait_until(lambda: session.connections == 2)


# ---- TLS and addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"no certificate", "no certificate or key")])
async def test_invalid_ca_file_is_reported_and_read_again(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    lost: list[Lost] = []
    session = BrokerSession(
        BrokerAddress("127.0.0.1", 1, path), Identity("a", "a"), lambda: "t", back_off=at_once, on_lost=lost.append
    )
    async with running(session, ready=False):
        await wait_until(lambda: len(lost) >= 2)
        assert all(f"{path}: {why}" in each.reason for each in lost)
        path.write_text(LocalCa().certificate)
        await wait_until(lambda: "Connection refused" in lost[-1].reason)


@pytest.mark.parametrize("host", ["a" * 64, "..", "x.invalid"])
async def test_nonexistent_host_is_reported(host: str) -> None:
    lost: list[Lost] = []
    session = BrokerSession(
        BrokerAddress(host, 1883), Identity("a", "a"), lambda: "t", back_off=at_once, on_lost=lost.append
    )
    async with running(session, ready=False):
        await wait_until(lambda: lost)
    assert lost[0].reason


def test_address_shows_whether_the_connection_is_encrypted() -> None:
    assert str(BrokerAddress("localhost", 1883)) == "mqtt://localhost:1883"
    assert str(BrokerAddress("::1", 1883)) == "mqtt://[::1]:1883"
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

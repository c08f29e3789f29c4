"""The broker session against a real Mosquitto: tokens that are wrong or expire, TLS, and where the broker is."""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fixtures.broker import Broker
from fixtures.broker_sessions import (
    HOUR,
    PATIENCE,
    TOPICS,
    Inbox,
    at_once,
    make,
    new_monitor,
    new_topic,
    running,
    until,
    worker,
)

from auth.tokens import Role
from runtime import broker as runtime_broker
from runtime.broker import BrokerAddress, BrokerSession, Identity, Lost, Subscription
from runtime.mqtt_client import Client
from simulation.tcp_proxy import TcpProxy

# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("welcome", [True, False])
async def test_a_session_that_is_told_to_end_as_the_broker_answers_its_login_ends(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, welcome: bool
) -> None:
    answered = Client._on_connect

    def answered_and_told(client: Client, *given: Any) -> None:
        answered(client, *given)
        monkeypatch.undo()  # it is told once
        session.cancel()

    monkeypatch.setattr(Client, "_on_connect", answered_and_told)
    options = {} if welcome else {"token": lambda: "no token"}
    session = asyncio.create_task(worker(broker, **options).run())
    await asyncio.wait({session}, timeout=PATIENCE)
    ended = session.done()
    session.cancel()  # should the first time have been lost
    await asyncio.wait({session})
    assert ended and session.cancelled()


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


# ---- TLS and addresses -----------------------------------------------------------------------------------------------


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

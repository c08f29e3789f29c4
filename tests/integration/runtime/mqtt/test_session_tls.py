"""Test the broker session with TLS: certificates, interrupted and stalled handshakes, messages of any size."""

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from auth.tokens import Role
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Lost, Subscription
from testbed.fixtures.broker import TRANSPORTS, Broker, Transport, require_address
from testbed.fixtures.broker_sessions import (
    HOUR,
    TOPICS,
    Inbox,
    at_once,
    make,
    new_monitor,
    new_topic,
    running,
    stranger,
    worker,
)
from testbed.ports import loopback_addresses
from testbed.tcp_proxy import Direction
from testbed.tls import Certificate, LocalCa
from testbed.waiting import PATIENCE, block_until, wait_until

MANY = 400


@pytest.fixture(params=[each for each in TRANSPORTS if each.tls], ids=str)
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each transport with TLS."""
    chosen: Transport = request.param
    require_address(chosen.host)
    return chosen


@pytest.fixture
def broker(broker: Broker, transport: Transport) -> Broker:
    """The session-scoped broker, reached by each transport in turn."""
    return broker.via(transport)


@pytest.fixture
def fresh_broker(fresh_broker: Broker, transport: Transport) -> Broker:
    """A broker of the test's own, reached by each transport in turn."""
    return fresh_broker.via(transport)


@pytest.mark.parametrize("size", [1, 5_000, 500_000])
async def test_messages_of_any_size_arrive_once_and_in_order(broker: Broker, size: int) -> None:
    """Packets are smaller than a TLS record, or much larger."""
    name, inbox = new_monitor(), Inbox()
    topic = TOPICS.acks(name, "v4")
    monitor = make(broker, Role.MONITOR, name, subscriptions=[Subscription(topic, inbox.take)], keep=HOUR)
    count = MANY if size < 100_000 else 5
    sent = [f"{number:05} ".encode() + secrets.token_bytes(size) for number in range(count)]
    async with running(monitor, sender := worker(broker)):
        await asyncio.gather(*(sender.publish(topic, payload) for payload in sent))
        await wait_until(lambda: len(inbox.messages) == count)
    assert [message.payload for message in inbox.messages] == sent


# ---- certificates ----------------------------------------------------------------------------------------------------


def of_another_ca(broker: Broker) -> Certificate:
    return LocalCa().issue(*loopback_addresses())


def of_another_host(broker: Broker) -> Certificate:
    return broker.process.ca.issue("broker.example", "192.0.2.1", "2001:db8::1")


def expired(broker: Broker) -> Certificate:
    return broker.process.ca.issue(*loopback_addresses(), lifetime=timedelta(minutes=-1))


def show(broker: Broker, certificate: Certificate) -> None:
    """Make the broker present this certificate, and wait until it does."""
    broker.process.show(certificate)
    broker.sighup()
    address = (broker.address.host, broker.address.port)
    block_until(lambda: ssl.get_server_certificate(address) == certificate.certificate, "another certificate")


@pytest.mark.parametrize("wrong", [of_another_ca, of_another_host, expired])
async def test_wrong_certificate_is_refused_and_a_later_valid_one_is_accepted(
    fresh_broker: Broker, wrong: Callable[[Broker], Certificate]
) -> None:
    lost: list[Lost] = []
    in_a_row: list[int] = []

    def back_off(one: Lost, failures: int) -> float:
        in_a_row.append(failures)
        return at_once(one, failures)

    await asyncio.to_thread(show, fresh_broker, wrong(fresh_broker))
    async with running(session := worker(fresh_broker, on_lost=lost.append, back_off=back_off), ready=False):
        await wait_until(lambda: len(lost) >= 3)
        assert not session.connected
        assert "as scorer/" not in fresh_broker.log_text(), "the token is shown to nobody"
        await asyncio.to_thread(show, fresh_broker, fresh_broker.process.certificate)
        await session.publish(new_topic(), b"x", timeout=PATIENCE)
    assert all("certificate verify failed" in each.reason for each in lost), lost
    assert all((each.code, each.lasted) == (None, 0.0) for each in lost)
    assert in_a_row == list(range(1, len(lost) + 1)), "a back-off that grows with failures does so"


async def test_changed_certificate_does_not_affect_a_live_connection(fresh_broker: Broker) -> None:
    async with running(session := worker(fresh_broker)):
        await asyncio.to_thread(show, fresh_broker, of_another_ca(fresh_broker))
        await session.publish(new_topic(), b"x")
        assert session.connections == 1


async def test_broken_ca_file_neither_ends_nor_blocks_a_session(fresh_broker: Broker, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("not yet")
    lost: list[Lost] = []
    session = worker(fresh_broker, ca_file=ca_file, on_lost=lost.append)
    async with running(session, ready=False):
        await wait_until(lambda: len(lost) >= 2)
        assert all(f"certificates or key cannot be used: {ca_file}: no certificate" in each.reason for each in lost)
        ca_file.write_text(fresh_broker.process.ca.certificate)
        async with asyncio.timeout(PATIENCE):
            await session.wait_ready()
        ca_file.write_text("broken again")
        await asyncio.to_thread(fresh_broker.restart)
        await wait_until(lambda: session.connections == 2)


# ---- handshakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("octets", [1, 5, 6, 100, 400])
async def test_interrupted_handshake_is_retried(broker: Broker, octets: int, direction: Direction) -> None:
    lost: list[Lost] = []
    async with broker.proxy() as proxy:
        proxy.cut_new_after(octets, direction)
        session = worker(broker, port=proxy.port, on_lost=lost.append)
        async with running(session, ready=False):
            await wait_until(lambda: len(lost) >= 3)
            proxy.cut_new_after(None, direction)
            await session.publish(new_topic(), b"x", timeout=PATIENCE)
    assert all(each.reason and (each.code, each.lasted) == (None, 0.0) for each in lost)


@pytest.mark.parametrize("directions", [(), (Direction.TO_TARGET,), (Direction.TO_CLIENT,)])
async def test_stalled_handshake_times_out_and_is_retried(broker: Broker, directions: tuple[Direction, ...]) -> None:
    lost: list[Lost] = []
    async with broker.proxy() as proxy:
        proxy.pause(*directions)
        began = time.monotonic()
        async with running(session := worker(broker, port=proxy.port, on_lost=lost.append), ready=False):
            await wait_until(lambda: lost)
            assert time.monotonic() - began < 7
            proxy.resume()
            await session.publish(new_topic(), b"x", timeout=PATIENCE)
    assert "timed out" in lost[0].reason


async def test_connection_of_a_stalled_handshake_is_closed(broker: Broker) -> None:
    async with a_mute_server(broker.address) as (address, counts):
        async with running(stranger(address, []), ready=False):
            await wait_until(lambda: counts == [2, 1])
            began = time.monotonic()
        assert time.monotonic() - began < 1, "who is told to end does not wait for the rest of a handshake"
        await wait_until(lambda: counts == [2, 2])


@asynccontextmanager
async def a_mute_server(like: BrokerAddress) -> AsyncIterator[tuple[BrokerAddress, list[int]]]:
    """Accept connections without answering; yield the address, and the numbers of connections made and ended."""
    counts = [0, 0]

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts[0] += 1
        with suppress(OSError):
            while await reader.read(1_000):
                pass
        writer.close()
        counts[1] += 1

    async with await asyncio.start_server(hear, like.host, 0) as server:
        yield replace(like, port=server.sockets[0].getsockname()[1]), counts


async def test_server_without_tls_is_reported_and_gets_no_token(broker: Broker) -> None:
    lost: list[Lost] = []
    seen = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(10_000))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    address = broker.address
    async with await asyncio.start_server(listen, address.host, 0) as server:
        plain = replace(address, port=server.sockets[0].getsockname()[1])
        session = BrokerSession(
            plain, Identity("a", "a"), lambda: "secret token", back_off=at_once, on_lost=lost.append
        )
        async with running(session, ready=False):
            await wait_until(lambda: len(lost) >= 3)
    assert all(each.reason for each in lost)
    assert seen and b"secret" not in seen

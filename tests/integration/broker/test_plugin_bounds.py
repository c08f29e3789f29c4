"""Test the limits of one name in the broker: retained and queued messages, sessions, subscriptions and memory.

In each test, a client tries to exceed a limit. Memory is the RSS of the broker's process before and after.
"""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from auth.tokens import Role
from schema.topics import Topics
from testbed.fixtures.broker import SANITIZE, Broker
from testbed.fixtures.clock import ClockedBroker
from testbed.fixtures.mqtt import MqttClient, Refused, Will, signed
from testbed.waiting import block_until

TOPICS = Topics("test")
NAME = "bounds1-x.test.mon.example"
NOT_AUTHORIZED = "Not authorized"
LARGE = "x" * 500_000
MEGABYTE = 1_000_000
measured = pytest.mark.skipif(SANITIZE, reason="the sanitizers keep what was freed")

ELSEWHERE = [TOPICS.results(NAME, "v4"), TOPICS.data(NAME, "01J"), TOPICS.api_test(NAME)]


def monitor(broker: Broker, client_id: str = NAME, **more: object) -> MqttClient:
    return MqttClient(broker.port, NAME, broker.token(Role.MONITOR, NAME), client_id=client_id, **more)  # type: ignore[arg-type]


def server(broker: Broker, client_id: str = "ingest/bounds", **more: object) -> MqttClient:
    name = client_id.partition("/")[0]
    return MqttClient(broker.port, name, broker.token(Role.SERVER, name), client_id=client_id, **more)  # type: ignore[arg-type]


def memory(broker: Broker) -> int:
    """Return the broker's resident memory in bytes."""
    process = broker.process.process
    assert process is not None
    (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    return int(kilobytes) * 1024


# --- retained messages --------------------------------------------------------------------------------


def test_monitor_may_retain_only_its_status(broker: Broker) -> None:
    with monitor(broker) as joe, server(broker) as watch:
        for topic in ELSEWHERE:
            assert joe.publish(topic, "kept", retain=True) == NOT_AUTHORIZED
            assert joe.publish(topic, "kept", retain=False) != NOT_AUTHORIZED
        assert joe.publish(TOPICS.status(NAME), "kept", retain=True) != NOT_AUTHORIZED
        assert watch.subscribe(f"/test/monitors/+/{NAME}/#")
        assert [(m.topic, m.retain) for m in watch.receive()] == [(TOPICS.status(NAME), True)]
        joe.publish(TOPICS.status(NAME), "", retain=True)


@pytest.mark.parametrize("delay", [0, 1])
def test_will_of_a_monitor_may_retain_only_its_status(broker: Broker, delay: int) -> None:
    with server(broker) as watch:
        assert watch.subscribe(TOPICS.status(NAME))
        for topic in (*ELSEWHERE, TOPICS.status(NAME)):
            monitor(broker, will=Will(topic, "gone", delay, retain=True)).connect().vanish()
            if topic in ELSEWHERE:
                refused = f"the will of {NAME} on {topic} is refused"
                block_until(lambda refused=refused: refused in broker.log_text())  # type: ignore[misc]
        assert [message.payload for message in watch.receive()] == [b"gone"]
        assert watch.subscribe(f"/test/monitors/+/{NAME}/+")
        assert {m.topic for m in watch.receive() if m.retain} == {TOPICS.status(NAME)}
    with monitor(broker) as joe:
        joe.publish(TOPICS.status(NAME), "", retain=True)


@measured
def test_refused_retained_messages_take_no_memory(fresh_broker: Broker) -> None:
    with monitor(fresh_broker) as eve:
        eve.publish(TOPICS.data(NAME, "warm"), LARGE)
        before = memory(fresh_broker)
        for number in range(200):
            assert eve.publish(TOPICS.data(NAME, f"{number}"), LARGE, retain=True) == NOT_AUTHORIZED
        assert memory(fresh_broker) - before < 10 * MEGABYTE


@pytest.mark.parametrize("role", [Role.SERVER, Role.ADMIN])
def test_server_and_admin_may_retain_messages(broker: Broker, role: Role) -> None:
    topic = TOPICS.config("bounds2-x.test.mon.example")
    with MqttClient(broker.port, "joe", broker.token(role, "joe"), client_id="joe/retains") as joe:
        assert joe.publish(topic, "{}", retain=True) != NOT_AUTHORIZED
        assert joe.subscribe(topic)
        assert joe.receive()[0].retain
        joe.publish(topic, "", retain=True)


@pytest.mark.parametrize("role", ["observer", "exporter", "monitor", "somebody"])
def test_other_roles_may_not_retain_even_on_permitted_topics(broker: Broker, role: str) -> None:
    token = signed(broker.key, "joe", role=role, publ=["/test/bounds/#", "/test/monitors/status/#"])
    with MqttClient(broker.port, "joe", token, client_id="joe/role") as joe:
        assert joe.publish("/test/bounds/x", "x") != NOT_AUTHORIZED
        assert joe.publish("/test/bounds/x", "x", retain=True) == NOT_AUTHORIZED
        assert joe.publish(TOPICS.status(NAME), "x", retain=True) == NOT_AUTHORIZED


# --- QoS 2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.MONITOR, Role.SERVER])
def test_messages_and_wills_of_qos_2_are_refused(broker: Broker, role: Role) -> None:
    topic = TOPICS.status(NAME)
    name = NAME if role is Role.MONITOR else "eve"

    def eve(will: Will | None = None) -> MqttClient:
        return MqttClient(broker.port, name, broker.token(role, name), will=will)

    with server(broker) as watch:
        assert watch.subscribe(topic, qos=2)
        with eve() as sender:
            sender.send(topic, "twice", qos=2)
            assert sender.is_alive()
        eve(Will(topic, "twice", qos=2)).connect().vanish()
        block_until(lambda: f"the will of {name} on {topic} is refused" in broker.log_text())
        watch.publish(topic, "once")
        assert [(m.payload, m.qos) for m in watch.receive()] == [(b"once", 1)]


def variable(number: int) -> bytes:
    """Encode a number as MQTT encodes lengths."""
    low = bytearray()
    while number >= 128:
        low.append(number % 128 | 128)
        number //= 128
    return bytes([*low, number])


def text(value: str) -> bytes:
    return len(value).to_bytes(2) + value.encode()


def packet(kind: int, rest: bytes) -> bytes:
    return bytes([kind]) + variable(len(rest)) + rest


def unreleased(topic: str, number: int) -> bytes:
    """Return a PUBLISH of QoS 2; its PUBREL never follows."""
    return packet(0x34, text(topic) + number.to_bytes(2) + b"\0" + LARGE.encode())


@measured
def test_unreleased_qos_2_messages_take_no_memory(fresh_broker: Broker) -> None:
    with monitor(fresh_broker) as eve, monitor(fresh_broker, f"{NAME}/2") as joe:
        joe.publish(TOPICS.data(NAME, "warm"), LARGE)
        before = memory(fresh_broker)
        sock = eve.socket()
        sock.setblocking(True)
        for number in range(1, 101):
            sock.sendall(unreleased(TOPICS.data(NAME, "x"), number))
        answer = sock.recv(5)
        assert (answer[0], answer[4]) == (0x50, 0x87), "a PUBREC that says: not authorized"
        assert joe.is_alive()
        assert memory(fresh_broker) - before < 10 * MEGABYTE


# --- queued messages ----------------------------------------------------------------------------------


@measured
@pytest.mark.parametrize(("away", "most"), [(True, 80), (False, 160)], ids=["away", "not reading"])
def test_message_queue_of_a_client_is_limited_in_bytes(fresh_broker: Broker, away: bool, most: int) -> None:
    """The limit is 64 MiB of payloads; for a connected client the process may take twice as much memory."""
    with monitor(fresh_broker, keep=600) as slow, server(fresh_broker) as writer:
        assert slow.subscribe(TOPICS.acks(NAME, "v4"))
        writer.publish(TOPICS.acks("nobody", "v4"), LARGE)
        if away:
            slow.close()
        before = memory(fresh_broker)
        for _ in range(500):
            writer.publish(TOPICS.acks(NAME, "v4"), LARGE)
        assert 30 * MEGABYTE < memory(fresh_broker) - before < most * MEGABYTE


# --- sessions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 600])
def test_monitor_may_have_eight_sessions_plus_the_one_of_its_name(fresh_broker: Broker, keep: int) -> None:
    with ExitStack() as connections:
        for number in range(8):
            connections.enter_context(monitor(fresh_broker, f"{NAME}/{number}", keep=keep))
        with pytest.raises(Refused, match=NOT_AUTHORIZED):
            monitor(fresh_broker, f"{NAME}/8").connect()
        assert f"login of {NAME}/8 from 127.0.0.1 refused: the user name has too many" in fresh_broker.log_text()
        monitor(fresh_broker, NAME).connect().close()
        monitor(fresh_broker, f"{NAME}/3", keep=keep).connect().close()
        other = "bounds3-x.test.mon.example"
        MqttClient(fresh_broker.port, other, fresh_broker.token(Role.MONITOR, other)).connect().close()


def lets_in(client: MqttClient) -> bool:
    try:
        client.connect().close()
    except Refused:
        return False
    return True


def test_kept_sessions_count_until_they_end(fresh_broker: Broker) -> None:
    for number in range(8):
        monitor(fresh_broker, f"{NAME}/{number}", keep=600).connect().close()
    assert not lets_in(monitor(fresh_broker, f"{NAME}/8"))
    assert not lets_in(monitor(fresh_broker, f"{NAME}/8", keep=600))
    # A session that its owner ends no longer counts.
    monitor(fresh_broker, f"{NAME}/0").connect().close()
    block_until(lambda: lets_in(monitor(fresh_broker, f"{NAME}/8")))


def test_sessions_with_a_pending_will_count(fresh_broker: Broker) -> None:
    for number in range(8):
        will = Will(TOPICS.status(NAME), "gone", delay=600)
        monitor(fresh_broker, f"{NAME}/{number}", will=will).connect().vanish()
    block_until(lambda: fresh_broker.vanished() == 8)
    for _ in range(3):
        assert not lets_in(monitor(fresh_broker, f"{NAME}/8"))


def test_ended_sessions_do_not_count(fresh_broker: Broker) -> None:
    for number in range(300):
        block_until(lambda number=number: lets_in(server(fresh_broker, f"ingest/{number}")))  # type: ignore[misc]
    for number in range(30):
        block_until(lambda number=number: lets_in(monitor(fresh_broker, f"{NAME}/{number}")))  # type: ignore[misc]


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.MONITOR])
def test_other_roles_may_have_256_sessions_plus_the_one_of_their_name(fresh_broker: Broker, role: Role) -> None:
    token = fresh_broker.token(role, "joe")
    with ExitStack() as connections:
        for number in range(256):
            connections.enter_context(MqttClient(fresh_broker.port, "joe", token, client_id=f"joe/{number}"))
        assert not lets_in(MqttClient(fresh_broker.port, "joe", token, client_id="joe/256"))
        assert lets_in(MqttClient(fresh_broker.port, "joe", token))


def test_a_client_id_is_at_most_512_bytes_long(broker: Broker) -> None:
    for length, good in ((512, True), (513, False)):
        assert lets_in(monitor(broker, f"{NAME}/".ljust(length, "x"))) is good


@measured
def test_a_thousand_logins_with_new_client_ids_take_no_memory(fresh_broker: Broker) -> None:
    will = Will(TOPICS.data(NAME, "x"), "x" * 60_000, delay=600)
    before = memory(fresh_broker)
    for number in range(1000):
        eve = monitor(fresh_broker, f"{NAME}/{number}", keep=600, will=will if number % 50 == 0 else None)
        if number < 8:
            eve.connect().vanish()
        else:
            assert not lets_in(eve)
    assert memory(fresh_broker) - before < 15 * MEGABYTE


@pytest.fixture
def clocked_broker() -> Iterator[ClockedBroker]:
    with ClockedBroker() as running:
        yield running


def test_session_is_kept_for_two_days_at_most(clocked_broker: ClockedBroker) -> None:
    forever = 2**32 - 1
    for number, keep in enumerate((24 * 3600, forever)):
        monitor(clocked_broker, f"{NAME}/{number}", keep=keep).connect().close()
    block_until(lambda: clocked_broker.log_text().count("disconnected.") == 2)
    day = 24 * 3600
    for ahead, ended in ((day - 60, set()), (day + 60, {0}), (2 * day - 60, {0}), (2 * day + 60, {0, 1})):
        clocked_broker.set_ahead(ahead)

        def expired() -> set[int]:
            found = re.findall(rf"Expiring client {re.escape(NAME)}/(\d) due to timeout", clocked_broker.log_text())
            return {int(number) for number in found}

        block_until(lambda ended=ended: expired() >= ended)  # type: ignore[misc]
        assert expired() == ended


# --- subscriptions ------------------------------------------------------------------------------------


def test_monitor_session_may_have_32_subscriptions(broker: Broker) -> None:
    with monitor(broker, f"{NAME}/subscriptions") as eve:
        filters = [TOPICS.request(NAME, f"check{number}") for number in range(40)]
        assert [eve.subscribe(filter_) for filter_ in filters] == [True] * 32 + [False] * 8
        assert eve.is_alive()


def test_subscription_limit_applies_within_one_packet(broker: Broker) -> None:
    with monitor(broker, f"{NAME}/packet") as eve:
        granted = eve.subscribe_many([TOPICS.request(NAME, f"check{number}") for number in range(40)])
        assert granted == [True] * 32 + [False] * 8


def test_server_session_may_have_1024_subscriptions(broker: Broker) -> None:
    with server(broker, "ingest/subscriptions") as worker:
        granted = worker.subscribe_many([f"/test/bounds/{number}" for number in range(1030)])
        assert granted == [True] * 1024 + [False] * 6


def test_a_filter_is_at_most_1024_bytes_long(broker: Broker) -> None:
    with monitor(broker, f"{NAME}/long") as eve, server(broker, "ingest/long") as worker:
        for length, good in ((1024, True), (1025, False)):
            assert eve.subscribe(f"/test/monitors/requests/{NAME}/".ljust(length, "x")) is good
            assert worker.subscribe("/test/".ljust(length, "x")) is good


def test_full_set_of_subscriptions_survives_the_expiry_of_the_token(broker: Broker) -> None:
    def eve(lifetime: timedelta | None = None) -> MqttClient:
        token = broker.token(Role.MONITOR, NAME, lifetime=lifetime)
        return MqttClient(broker.port, NAME, token, client_id=f"{NAME}/full", keep=600)

    filters = [TOPICS.request(NAME, f"check{number}") for number in range(32)]
    short = eve(timedelta(seconds=2)).connect()
    assert all(short.subscribe(filter_) for filter_ in filters)
    short.wait_lost(7)
    with server(broker) as writer:
        for filter_ in filters:
            writer.publish(filter_, "queued")
        with eve() as back:
            assert back.session_present
            assert {message.topic for message in back.receive(32)} == set(filters)
        monitor(broker, f"{NAME}/full").connect().close()


# --- connections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beginning", [b"", b"\x10", b"\x10\xff\x7f\x00\x04MQTT\x05"], ids=["none", "one byte", "half"])
def test_client_with_an_unfinished_connect_is_disconnected(clocked_broker: ClockedBroker, beginning: bytes) -> None:
    with socket.create_connection(("127.0.0.1", clocked_broker.port), timeout=10) as idle:
        idle.sendall(beginning)
        block_until(lambda: "New connection from 127.0.0.1" in clocked_broker.log_text())
        with monitor(clocked_broker) as joe:
            assert joe.is_alive()
        idle.setblocking(False)
        with pytest.raises(BlockingIOError):
            idle.recv(1)
        idle.settimeout(10)
        clocked_broker.set_ahead(100)
        began = time.monotonic()
        assert idle.recv(1) == b"", "it is dropped"
        assert time.monotonic() - began < 10


def stranger(will_qos: int) -> bytes:
    """Return a CONNECT with many properties, a will and no token."""
    properties = (b"\x26" + text("name") + text("x" * 40_000)) * 12
    flags = 0x06 | will_qos << 3
    head = text("MQTT") + bytes([5, flags]) + (60).to_bytes(2) + variable(len(properties)) + properties
    return packet(0x10, head + text(NAME) + b"\0" + text(TOPICS.status(NAME)) + text("gone"))


@measured
@pytest.mark.parametrize("will_qos", [0, 2])
def test_unauthenticated_logins_leave_no_memory_behind(fresh_broker: Broker, will_qos: int) -> None:
    before = memory(fresh_broker)
    for _ in range(100):
        # Mosquitto 2.1 refuses a CONNECT of this size.
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", fresh_broker.port), 10) as sock:
            sock.sendall(stranger(will_qos))
            sock.recv(100)
    with monitor(fresh_broker) as joe:
        assert joe.is_alive()
    assert memory(fresh_broker) - before < 10 * MEGABYTE


@measured
def test_idle_connections_take_little_memory(fresh_broker: Broker) -> None:
    before = memory(fresh_broker)
    with ExitStack() as sockets:
        for _ in range(500):
            idle = sockets.enter_context(socket.create_connection(("127.0.0.1", fresh_broker.port), timeout=10))
            idle.sendall(b"\x10\xff\x7f\x00\x04MQTT\x05")
        with monitor(fresh_broker) as joe:
            assert joe.is_alive()
            assert memory(fresh_broker) - before < 20 * MEGABYTE

"""Test that the limits in a broker's CONNACK are respected: otherwise it would end every connection."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from runtime.mqtt.session import (
    BrokerAddress,
    BrokerSession,
    Identity,
    Lost,
    PublishRefused,
    Subscription,
    TooLarge,
    Will,
)
from testbed.fixtures.broker_sessions import running
from testbed.fixtures.wire import PINGREQ, PatientBroker, connack, patient_broker
from testbed.waiting import wait_until

RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x9A, 0x9B
WILL = Will("gone", b"{}", timedelta(seconds=30), timedelta(hours=24))


def session(broker: PatientBroker, **options: Any) -> BrokerSession:
    address, identity = BrokerAddress("127.0.0.1", broker.port), Identity("a", "a")
    return BrokerSession(address, identity, lambda: "token", back_off=lambda lost, failures: 0.01, **options)


@pytest.mark.parametrize("qos", [0, 1])
async def test_packet_may_be_as_large_as_the_broker_accepts_but_no_larger(qos: int) -> None:
    async with patient_broker(connack(max_packet=1_000)) as broker, running(one := session(broker)):
        largest = 0
        for size in range(940, 1_010):
            try:
                await one.publish("topic", b"x" * size, qos=qos, correlation=b"id", user_properties=[("a", "b")])
            except TooLarge as refused:
                assert "is larger than the 1000 that the broker accepts" in str(refused)
                break
            largest = size
        await one.publish("topic", b"the connection lives")
        await wait_until(lambda: broker.last.payloads("topic")[-1:] == [b"the connection lives"])
        assert max(sent.size for sent in broker.last.published) == 1_000
        assert len(broker.last.published) == largest - 940 + 2
        assert len(broker.connections) == 1
        assert one.limits.packet == 1_000


async def test_without_a_limit_a_packet_may_have_any_size() -> None:
    async with patient_broker() as broker, running(one := session(broker)):
        await one.publish("topic", b"x" * 1_000_000)
        assert one.limits.packet is None


async def test_large_limit_refuses_only_larger_packets() -> None:
    async with patient_broker(connack(max_packet=300_000)) as broker, running(one := session(broker)):
        await one.publish("topic", b"x" * 200_000)
        await one.publish("topic", b"x" * 299_900)
        with pytest.raises(TooLarge):
            await one.publish("topic", b"x" * 300_000)


async def test_only_qos_0_is_used_if_the_broker_supports_no_other() -> None:
    async with patient_broker(connack(max_qos=0)) as broker, running(one := session(broker)):
        await one.publish("topic", b"x", qos=1)
        await wait_until(lambda: broker.last.published)
        assert broker.last.published[0].qos == 0


async def test_retain_is_not_used_if_the_broker_does_not_support_it(caplog: pytest.LogCaptureFixture) -> None:
    async with patient_broker(connack(retain=0)) as broker, running(one := session(broker)):
        await one.publish("topic", b"x", retain=True)
        assert [(sent.qos, sent.retain) for sent in broker.last.published] == [(1, False)]
    assert "retains no messages: assignments and presence are not kept there" in caplog.text


async def test_retain_is_used_if_the_connack_does_not_exclude_it() -> None:
    async with patient_broker() as broker, running(one := session(broker)):
        await one.publish("topic", b"x", retain=True)
        assert [(sent.qos, sent.retain) for sent in broker.last.published] == [(1, True)]


async def test_refused_will_is_reduced_and_the_full_one_is_retried_later() -> None:
    refusals = [connack(reason=RETAIN_NOT_SUPPORTED), connack(reason=QOS_NOT_SUPPORTED)]
    lost: list[Lost] = []
    async with patient_broker(*refusals, connack()) as broker:
        one = session(broker, will=WILL, on_lost=lost.append)
        async with running(one):
            broker.last.peer.close()
            await wait_until(lambda: len(broker.connections) == 4)
    wills = [connection.connect.will for connection in broker.connections]
    assert [(will.retain, will.qos) for will in wills if will is not None] == [
        (True, 1),
        (False, 1),
        (False, 0),
        (True, 1),
    ]
    assert {(will.topic, will.payload) for will in wills if will is not None} == {("gone", b"{}")}
    assert [one.code for one in lost[:2]] == [RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED]


async def test_brokers_keep_alive_overrides_ours() -> None:
    async with patient_broker(connack(keep_alive=1)) as broker, running(session(broker, keepalive=300)):
        await wait_until(lambda: any(sent.kind == PINGREQ for sent in broker.last.heard))


async def test_topic_aliases_are_neither_used_nor_requested() -> None:
    async with patient_broker(connack(aliases=10)) as broker, running(one := session(broker)):
        for _ in range(3):
            await one.publish("topic", b"x")
        assert [sent.topic for sent in broker.last.published] == ["topic"] * 3
        assert all(b"\x23" not in sent.properties for sent in broker.last.published)  # topic alias
        assert b"\x22" not in broker.last.connect.properties  # topic alias maximum


async def test_session_that_expired_early_at_the_broker_is_started_afresh() -> None:
    kept: list[bool] = []
    welcomes = [
        connack(session_expiry=60),
        connack(session_expiry=60, session_present=True),
        connack(session_expiry=60),
    ]
    async with patient_broker(*welcomes) as broker:
        one = session(broker, keep=timedelta(days=1), on_session=kept.append, subscriptions=[Subscription("a", print)])
        async with running(one):
            for count in (2, 3):
                broker.last.peer.close()
                await wait_until(lambda count=count: one.connections == count)
    assert kept == [False, True, False]
    assert not any(connection.connect.clean_start for connection in broker.connections)
    assert all(b"\x11\x00\x01\x51\x80" in one.connect.properties for one in broker.connections)  # a day


async def test_invalid_topic_is_refused_without_ending_the_connection() -> None:
    """Topics that MQTT forbids are refused before anything is sent."""
    async with patient_broker() as broker, running(one := session(broker)):
        for topic in ("", "a/+", "a\0b"):
            with pytest.raises(PublishRefused):
                await one.publish(topic, b"x")
        async with asyncio.timeout(5):
            await one.publish("topic", b"x")
        assert len(broker.connections) == 1

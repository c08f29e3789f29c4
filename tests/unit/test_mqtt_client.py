"""Our side of a connection: what is under way at the same time, and which answer is whose."""

import asyncio
from typing import Any

import mqtt5
import pytest
from fixtures.wire import Wire
from hypothesis import given
from hypothesis import strategies as st

from runtime.mqtt_client import Client, MqttError, PublishRefused

PLAIN: dict[str, Any] = {
    "retain": False,
    "expiry": None,
    "response_topic": None,
    "correlation": None,
    "user_properties": (),
}
REFUSED = mqtt5.PubAckReasonCode.NOT_AUTHORIZED


class Broker:
    """Talks with a client by hand."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.wire = Wire()
        client.stream.connection_made(self.wire)

    def say(self, *packets: mqtt5.Packet) -> None:
        data = b"".join(packet.write() for packet in packets)
        self.client.stream.get_buffer(-1)[: len(data)] = data
        self.client.stream.buffer_updated(len(data))

    async def heard(self) -> list[mqtt5.Packet]:
        """What the client has sent since this was asked before."""
        for _ in range(5):
            await asyncio.sleep(0)
        data = memoryview(b"".join(self.wire.written))
        self.wire.written.clear()
        packets = []
        while data:
            packet, size = mqtt5.read(data)
            packets.append(packet)
            data = data[size:]
        return packets

    async def messages(self) -> dict[bytes, int]:
        """The packet identifiers of the payloads that the client has published since."""
        return {
            packet.payload: packet.packet_id or 0
            for packet in await self.heard()
            if isinstance(packet, mqtt5.PublishPacket)
        }


async def welcomed(receive_max: int = 65_535, max_inflight: int = 100) -> Broker:
    client = Client(lambda message: None, keepalive=30, max_inflight=max_inflight)
    broker = Broker(client)
    entering = asyncio.create_task(client.enter(b"\xc0\x00"))
    await broker.heard()
    broker.say(mqtt5.ConnAckPacket(receive_max=receive_max))
    await entering
    return broker


def publish(broker: Broker, payload: bytes, timeout: float = 10.0) -> "asyncio.Task[None]":
    return asyncio.create_task(broker.client.publish("a", payload, qos=1, timeout=timeout, **PLAIN))


@pytest.mark.parametrize(("receive_max", "max_inflight"), [(2, 100), (65_535, 2)])
async def test_no_more_is_under_way_than_is_allowed_and_the_rest_follows_in_order(
    receive_max: int, max_inflight: int
) -> None:
    broker = await welcomed(receive_max, max_inflight)
    sending = [publish(broker, payload) for payload in (b"1", b"2", b"3", b"4")]
    first = await broker.messages()
    assert list(first) == [b"1", b"2"]
    broker.say(mqtt5.PubAckPacket(first[b"2"]))
    second = await broker.messages()
    assert list(second) == [b"3"]
    assert [task.done() for task in sending] == [False, True, False, False]
    broker.say(*(mqtt5.PubAckPacket(number) for number in (first[b"1"], second[b"3"])))
    third = await broker.messages()
    broker.say(mqtt5.PubAckPacket(third[b"4"]))
    await asyncio.gather(*sending)


async def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    broker = await welcomed(receive_max=1)
    first, second, third = publish(broker, b"1"), publish(broker, b"2", timeout=0.01), publish(broker, b"3")
    sent = await broker.messages()
    with pytest.raises(TimeoutError):
        await second
    broker.say(mqtt5.PubAckPacket(sent[b"1"]))
    await first
    sent = await broker.messages()
    assert list(sent) == [b"3"]
    broker.say(mqtt5.PubAckPacket(sent[b"3"]))
    await third


async def test_an_answer_that_comes_too_late_is_not_taken_for_another_message() -> None:
    broker = await welcomed()
    with pytest.raises(TimeoutError):
        await publish(broker, b"slow", timeout=0.0)
    slow = (await broker.messages())[b"slow"]
    broker.client._numbers = iter([slow, slow + 1])  # type: ignore[assignment]  # all others have had their turn
    quick = publish(broker, b"quick")
    assert (await broker.messages())[b"quick"] == slow + 1
    broker.say(mqtt5.PubAckPacket(slow, reason_code=REFUSED), mqtt5.PubAckPacket(slow + 1))
    await quick


async def test_each_message_has_its_own_answer() -> None:
    broker = await welcomed()
    good, bad = publish(broker, b"good"), publish(broker, b"bad")
    sent = await broker.messages()
    broker.say(mqtt5.PubAckPacket(sent[b"bad"], reason_code=REFUSED), mqtt5.PubAckPacket(sent[b"good"]))
    await good
    with pytest.raises(PublishRefused, match="Not authorized"):
        await bad


async def test_the_end_of_the_connection_is_told_to_all_who_wait_and_to_those_who_come_later() -> None:
    broker = await welcomed(receive_max=1)
    waiting = [publish(broker, b"1"), publish(broker, b"2")]
    await broker.heard()
    broker.say(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
    assert broker.wire.closing
    broker.client.stream.connection_lost(None)
    for task in [*waiting, publish(broker, b"3")]:
        with pytest.raises(MqttError, match="Session taken over") as told:
            await task
        assert told.value.code == 0x8E
    with pytest.raises(MqttError, match="Session taken over"):
        await broker.client.publish("a", b"4", qos=0, timeout=1.0, **PLAIN)
    assert await broker.messages() == {}


@given(
    packets=st.lists(
        st.sampled_from(
            [
                mqtt5.ConnAckPacket(),
                mqtt5.PubAckPacket(1),
                mqtt5.PubRecPacket(1),
                mqtt5.SubAckPacket(1, []),
                mqtt5.UnsubAckPacket(1, []),
                mqtt5.PingRespPacket(),
                mqtt5.PingReqPacket(),
                mqtt5.PublishPacket("a", b"", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=1),
                mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("a")]),
                mqtt5.DisconnectPacket(),
                mqtt5.AuthPacket(),
            ]
        ),
        max_size=5,
    )
)
def test_packets_that_nobody_asked_for_end_a_connection_or_are_ignored(packets: list[mqtt5.Packet]) -> None:
    async def run() -> None:
        broker = await welcomed()
        for packet in packets:
            if not broker.wire.closing:
                broker.say(packet)
        broker.client.stream.connection_lost(None)
        assert isinstance(broker.client.lost.exception(), MqttError)

    asyncio.run(run())

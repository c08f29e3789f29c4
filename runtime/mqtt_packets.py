"""Our values as MQTT packets, and packets as our values."""

from collections.abc import Sequence
from datetime import timedelta

import mqtt5

from runtime.broker_types import Identity, Incoming, Subscription, Will


def connect_packet(identity: Identity, token: str, will: Will | None, keep: timedelta, keepalive: int) -> bytes:
    """Opens a session that the broker keeps for ``keep`` after the connection; zero starts clean.

    Raises:
        ValueError: a text is longer than MQTT allows, or cannot be encoded.
    """
    return mqtt5.ConnectPacket(
        identity.client_id,
        username=identity.name,
        password=token.encode(),
        clean_start=not keep,
        session_expiry_interval=int(keep.total_seconds()),
        will=None if will is None else _will(will),
        keep_alive=keepalive,
    ).write()


def publish_packet(
    number: int | None,
    topic: str,
    payload: bytes,
    *,
    retain: bool,
    expiry: timedelta | None,
    response_topic: str | None,
    correlation: bytes | None,
    user_properties: Sequence[tuple[str, str]],
) -> bytes:
    """A message: with QoS 1 if it has a packet identifier, otherwise with QoS 0.

    Raises:
        ValueError: it is not possible to publish on that topic, or to ask for an answer there.
    """
    return mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS.AT_MOST_ONCE if number is None else mqtt5.QoS.AT_LEAST_ONCE,
        packet_id=number,
        retain=retain,
        message_expiry_interval=None if expiry is None else int(expiry.total_seconds()),
        response_topic=response_topic,
        correlation_data=correlation,
        user_properties=list(user_properties),
    ).write()


def subscribe_packet(number: int, subscription: Subscription, retain_handling: int) -> bytes:
    """A subscription; ``retain_handling`` as MQTT 5 numbers it (3.8.3.1).

    Raises:
        ValueError: its topic filter is none.
    """
    topic_filter = mqtt5.TopicFilter(
        subscription.topic_filter,
        max_qos=mqtt5.QoS(subscription.qos),
        retain_as_published=False,
        retain_handling=mqtt5.RetainHandling(retain_handling),
    )
    return mqtt5.SubscribePacket(number, [topic_filter]).write()


def as_incoming(packet: mqtt5.PublishPacket) -> Incoming:
    """A message that was received."""
    return Incoming(
        packet.topic,
        packet.payload,
        packet.retain,
        packet.response_topic,
        packet.correlation_data,
        tuple(packet.user_properties),
    )


def _will(will: Will) -> mqtt5.Will:
    return mqtt5.Will(
        will.topic,
        payload=will.payload,
        qos=mqtt5.QoS(will.qos),
        retain=will.retain,
        message_expiry_interval=int(will.expiry.total_seconds()),
        will_delay_interval=int(will.delay.total_seconds()),
    )

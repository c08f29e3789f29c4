"""Our values as those of the MQTT libraries, and theirs as ours."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from runtime.broker_types import Incoming, Will


def connect_properties(keep: timedelta) -> Properties:
    """Of a connection whose session the broker keeps for that long."""
    properties = _new(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = int(keep.total_seconds())
    return properties


def publish_properties(
    expiry: timedelta | None,
    response_topic: str | None = None,
    correlation: bytes | None = None,
    user_properties: Sequence[tuple[str, str]] = (),
) -> Properties:
    """Of a message."""
    properties = _new(PacketTypes.PUBLISH)
    if expiry is not None:
        properties.MessageExpiryInterval = int(expiry.total_seconds())
    if response_topic is not None:
        properties.ResponseTopic = response_topic
    if correlation is not None:
        properties.CorrelationData = correlation
    if user_properties:
        properties.UserProperty = list(user_properties)
    return properties


def as_aiomqtt_will(will: Will) -> aiomqtt.Will:
    """The last will as aiomqtt takes it."""
    properties = _new(PacketTypes.WILLMESSAGE)
    properties.MessageExpiryInterval = int(will.expiry.total_seconds())
    properties.WillDelayInterval = int(will.delay.total_seconds())
    return aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, properties)


def as_incoming(message: paho.MQTTMessage) -> Incoming:
    """A message that paho received."""
    properties = message.properties
    return Incoming(
        topic=message.topic,
        payload=bytes(message.payload),
        retain=message.retain,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        user_properties=tuple(tuple(pair) for pair in getattr(properties, "UserProperty", ())),
    )


def _new(kind: int) -> Properties:
    """Empty ones, copied: their constructor fills two tables that never change, longer than it takes to send them."""
    properties = Properties.__new__(Properties)
    vars(properties).update(_empty(kind))
    return properties


@cache
def _empty(kind: int) -> dict[str, Any]:
    return dict(vars(Properties(kind)))  # type: ignore[no-untyped-call]  # paho annotates this constructor only in part

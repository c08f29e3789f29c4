"""Convert between the session's values and those of the MQTT library."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from runtime.mqtt.types import Incoming, Limits, Will

_TEXT: Final = 65_535
"""Maximum bytes of a text or of binary data (MQTT 5, 1.5.4 and 1.5.6)."""


def connect_properties(keep: timedelta) -> Properties:
    """Return properties that request the broker to keep the session for ``keep`` after the connection."""
    return Sparse(PacketTypes.CONNECT, SessionExpiryInterval=int(keep.total_seconds()))


def publish_properties(
    *,
    expiry: timedelta | None,
    response_topic: str | None,
    correlation: bytes | None,
    user_properties: Sequence[tuple[str, str]],
) -> Properties:
    """Return the properties of a message.

    Raises:
        ValueError: a value does not fit into a packet, or the response topic is invalid. The library would detect this
            only after it has queued the message.
    """
    held: dict[str, Any] = {}
    if expiry is not None:
        held["MessageExpiryInterval"] = int(expiry.total_seconds())
    if response_topic is not None:
        if not response_topic or not _TOPIC_FORBIDS.isdisjoint(response_topic):
            raise ValueError("the response topic is invalid")
        check_text(response_topic)
        held["ResponseTopic"] = response_topic
    if correlation is not None:
        if len(correlation) > _TEXT:
            raise ValueError("the correlation data are too long")
        held["CorrelationData"] = correlation
    if user_properties:
        for pair in user_properties:
            for text in pair:
                check_text(text)
        held["UserProperty"] = list(user_properties)
    return Sparse(PacketTypes.PUBLISH, **held)


_SMALL: Final = 64 * 1024
"""Maximum bytes of a packet without its payload and topic, except for very long properties."""


def surely_fits(limit: int | None, topic: str, payload: bytes) -> bool:
    """Return whether a usual message is so much smaller than ``limit`` that its exact size is irrelevant."""
    return limit is None or len(payload) + len(topic) + _SMALL <= limit


def publish_size(topic: str, payload: bytes, qos: int, properties: Properties) -> int:
    """Return the bytes of the PUBLISH packet (MQTT 5, 3.3)."""
    identifier = 2 if qos else 0
    rest = 2 + len(topic.encode()) + identifier + len(properties.pack()) + len(payload)  # type: ignore[no-untyped-call]
    return 1 + len(VariableByteIntegers.encode(rest)) + rest  # type: ignore[no-untyped-call]


_TOPIC_FORBIDS: Final = frozenset("+#\0")


def check_text(text: str) -> None:
    """Check that a text fits into a packet.

    Raises:
        ValueError: it is too long, or is not UTF-8. The message does not repeat the text, which may be secret.
    """
    try:
        size = len(text.encode())
    except UnicodeError:
        raise ValueError("a text cannot be encoded as UTF-8") from None
    if size > _TEXT:
        raise ValueError(f"a text is longer than {_TEXT} bytes")


def as_aiomqtt_will(will: Will) -> aiomqtt.Will:
    """Convert the last will for the library."""
    properties = Sparse(
        PacketTypes.WILLMESSAGE,
        MessageExpiryInterval=int(will.expiry.total_seconds()),
        WillDelayInterval=int(will.delay.total_seconds()),
    )
    return aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, properties)


def limits_of(welcome: Properties | None) -> Limits:
    """Return the limits that the broker announced in its CONNACK; a missing property is no limit (MQTT 5, 3.2.2.3)."""
    given = {} if welcome is None else vars(welcome)
    return Limits(
        packet=given.get("MaximumPacketSize"),
        qos=given.get("MaximumQoS", 2),
        retain=bool(given.get("RetainAvailable", 1)),
    )


def as_incoming(message: paho.MQTTMessage) -> Incoming:
    """Convert a received message.

    Raises:
        UnicodeDecodeError: its topic is not UTF-8.
    """
    given = vars(message.properties)
    pairs = given.get("UserProperty")
    return Incoming(
        message.topic,
        bytes(message.payload),
        bool(message.retain),
        given.get("ResponseTopic"),
        given.get("CorrelationData"),
        tuple(tuple(pair) for pair in pairs) if pairs else (),
    )


class Sparse(Properties):
    """Properties whose cost depends only on the properties that are set.

    The library fills two tables for each packet, and iterates over all possible names for each property that it sets or
    packs, which takes longer than the rest of sending.
    """

    def __init__(self, kind: int, **held: Any) -> None:
        vars(self).update(_tables(kind))
        vars(self).update(held)

    def pack(self) -> bytes:
        """Encode the properties with their length (MQTT 5, 2.2.2)."""
        identifiers, packed = _identifiers(), bytearray()
        for name, held in vars(self).items():
            identifier = identifiers.get(name)
            if identifier is not None:
                kind = self.properties[identifier][0]
                for value in held if isinstance(held, list) else (held,):
                    packed += self.writeProperty(identifier, kind, value)  # type: ignore[no-untyped-call]
        return bytes(VariableByteIntegers.encode(len(packed)) + packed)  # type: ignore[no-untyped-call]


@cache
def _tables(kind: int) -> dict[str, Any]:
    return dict(vars(Properties(kind)))  # type: ignore[no-untyped-call]


@cache
def _identifiers() -> dict[str, int]:
    return {name.replace(" ", ""): number for name, number in _tables(PacketTypes.PUBLISH)["names"].items()}

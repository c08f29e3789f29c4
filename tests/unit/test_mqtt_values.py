"""Which messages a subscription takes, and properties that are made for each message anew."""

from datetime import timedelta
from itertools import product

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from runtime.broker_types import Subscription
from runtime.mqtt_packets import connect_properties, publish_properties
from schema.topics import shared

FILTERS = [
    "#",
    "+",
    "/#",
    "/+/#",
    "/test/#",
    "/test/+/b",
    "/test/a/b",
    "/test/a",
    "+/test/a/b",
    "$SYS/#",
    "/test/+/+/#",
]
TOPICS = [
    "",
    "/",
    "/test",
    "/test/a",
    "/test/a/b",
    "/test/a/b/c",
    "/other/a/b",
    "$SYS/broker",
    "x/test/a/b",
    "/test//b",
]


@pytest.mark.parametrize(("topic_filter", "topic"), list(product(FILTERS, TOPICS)))
def test_a_subscription_takes_what_its_filter_matches_also_when_it_is_shared(topic_filter: str, topic: str) -> None:
    expected = paho.topic_matches_sub(topic_filter, topic)
    assert Subscription(topic_filter, print).takes(topic) is expected
    assert Subscription(shared("group", topic_filter), print).takes(topic) is expected


def test_properties_are_those_that_were_asked_for_and_no_others() -> None:
    first = publish_properties(timedelta(seconds=5), "answers", b"1", [("a", "b")])
    second = publish_properties(None, correlation=b"2")
    own = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    own.CorrelationData = b"2"
    assert second.json() == own.json()
    assert second.pack() == own.pack()
    assert first.json()["CorrelationData"] == b"1".hex()
    assert publish_properties(None).isEmpty()
    assert connect_properties(timedelta(hours=1)).json() == {"SessionExpiryInterval": 3600}

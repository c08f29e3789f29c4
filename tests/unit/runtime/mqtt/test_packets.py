"""Test which messages match a subscription."""

from itertools import product

import paho.mqtt.client as paho
import pytest

from runtime.mqtt.types import Subscription
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
def test_subscription_matches_its_filter_even_when_shared(topic_filter: str, topic: str) -> None:
    expected = paho.topic_matches_sub(topic_filter, topic)
    assert Subscription(topic_filter, print).matches(topic) is expected
    assert Subscription(shared("group", topic_filter), print).matches(topic) is expected

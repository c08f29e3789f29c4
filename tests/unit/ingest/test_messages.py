"""Test the conversion of messages to submissions: accepted and refused ones, and the recipient of the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.messages import (
    Presence,
    Submission,
    UndecodableMessage,
    read_results,
    read_status,
    sender_of_results,
    sender_of_status,
)
from runtime.mqtt.session import Incoming
from schema.messages import ProtocolState, Status, encode
from schema.topics import Topics
from testbed.fixtures.batches import ARRIVED, new_batch, new_result

TOPICS = Topics("devel")
NAME = "nlams1.devel.mon.example"
TOPIC = TOPICS.results(NAME, "v4")
GOOD = new_batch(new_result(1, "192.0.2.1"))
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def read(payload: bytes, correlation: bytes | None = GOOD.id.encode()) -> Submission | UndecodableMessage:
    return read_results(NAME, "v4", Incoming(TOPIC, payload, correlation=correlation), ARRIVED)


def test_batch_is_accepted_with_its_sender() -> None:
    payload = encode(GOOD)
    assert read(payload) == Submission(NAME, "v4", GOOD, ARRIVED, size=len(payload))


def test_correlation_data_may_be_missing() -> None:
    assert isinstance(read(encode(GOOD), None), Submission)


@pytest.mark.parametrize(
    "correlation",
    [b"", b"01ARZ3NDEKTSV4RRFFQ69G5FAV", GOOD.id.lower().encode(), GOOD.id.encode() + b"\n", b"\xff" * 26],
    ids=["empty", "another", "lower case", "with a line break", "no text"],
)
def test_correlation_data_that_does_not_match_the_batch_is_refused(correlation: bytes) -> None:
    found = read(encode(GOOD), correlation)
    assert isinstance(found, UndecodableMessage)
    assert found.batch in (None, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert "correlation" in found.reason


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"id": "no ulid", "version": "1", "results": []}',
        encode(GOOD).replace(b'"stratum":2', b'"stratum":"2"'),
        encode(GOOD).replace(b'"offset":0.0012', b'"offset":NaN'),
        encode(GOOD).replace(b'"offset":0.0012', b'"offset":1e999'),
        encode(GOOD).replace(b"Z", b""),
        b"[" * 200_000,
    ],
)
def test_invalid_batch_is_undecodable_but_can_be_answered(payload: bytes) -> None:
    found = read(payload)
    assert isinstance(found, UndecodableMessage)
    assert (found.batch, found.name, found.ipv, found.topic) == (GOOD.id, NAME, "v4", TOPIC)
    assert found.payload == payload
    assert found.reason


def test_batch_may_have_1000_results_at_most() -> None:
    result = new_result(1, "192.0.2.1")
    most = new_batch(*[result] * 1_000)
    assert isinstance(read(encode(most), None), Submission)
    more = new_batch(*[result] * 1_001)
    found = read(encode(more), more.id.encode())
    assert isinstance(found, UndecodableMessage)
    assert found.batch == more.id
    assert "at most 1000" in found.reason


@given(st.binary(max_size=200), st.none() | st.binary(max_size=40))
def test_arbitrary_payloads_are_undecodable(payload: bytes, correlation: bytes | None) -> None:
    found = read(payload, correlation)
    assert isinstance(found, UndecodableMessage)
    assert found.batch is None or found.batch.encode() == correlation


@pytest.mark.parametrize(
    ("value", "taken"), [(TRACE, TRACE), ("", None), ("00-xyz", None), (TRACE + "\n", None), (TRACE.upper(), None)]
)
def test_only_valid_trace_contexts_are_kept(value: str, taken: str | None) -> None:
    properties = (("other", "x"), ("traceparent", value))
    found = read_results(NAME, "v4", Incoming(TOPIC, encode(GOOD), user_properties=properties), ARRIVED)
    assert isinstance(found, Submission)
    assert found.trace_parent == taken


def test_only_topics_for_results_have_a_sender_of_results() -> None:
    assert sender_of_results(TOPICS, TOPIC) == (NAME, "v4")
    strange = TOPICS.results("\N{BUG}.devel.mon.example", "v4")
    others = (TOPICS.acks(NAME, "v4"), TOPICS.status(NAME), f"{TOPIC}/x", TOPIC.replace("v4", "v5"), "", "/", strange)
    for topic in others:
        assert sender_of_results(TOPICS, topic) is None
    assert sender_of_results(Topics("prod"), TOPIC) is None


def test_only_status_topics_have_a_sender_of_status() -> None:
    assert sender_of_status(TOPICS, TOPICS.status(NAME)) == NAME
    strange = [
        TOPICS.status(name) for name in ("\N{BUG}.devel.mon.example", "a\x1b[2J.devel.mon.example", "ä.devel.x.y")
    ]
    for topic in (TOPICS.api_test(NAME), TOPIC, Topics("prod").status(NAME), "", *strange):
        assert sender_of_status(TOPICS, topic) is None


_CHATTY = ProtocolState(status="active", probing=False, assignments=0, assignments_hash="", why_not="x" * 16_384)
_EXTREME = b'{"online":true,"ts":"0001-01-01T00:00:00+23:59"}'


def test_status_is_accepted() -> None:
    status = Status(online=True, ts=ARRIVED, version="1")
    message = Incoming(TOPICS.status(NAME), encode(status), retain=True)
    assert read_status(NAME, message, ARRIVED) == Presence(NAME, status, ARRIVED, retained=True)


@pytest.mark.parametrize(
    "payload",
    [b"{}", b"nonsense", encode(Status(online=True, ts=ARRIVED, protocols={"v4": _CHATTY})), _EXTREME],
    ids=["empty", "nonsense", "long", "a time that is none"],
)
def test_invalid_status_is_undecodable(payload: bytes) -> None:
    found = read_status(NAME, Incoming(TOPICS.status(NAME), payload), ARRIVED)
    assert isinstance(found, UndecodableMessage)
    assert found.batch is None

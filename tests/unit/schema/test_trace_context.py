"""Test W3C trace contexts: which are valid, and that of a batch."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from agent.delivery.ulid import new_ulid
from schema.trace_context import (
    TraceIds,
    find_trace_context,
    ids_of,
    ids_of_batch,
    is_sampled,
    trace_of_batch,
)

# The example of W3C Trace Context, 3.2.3.
EXAMPLE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_standards_example_is_understood() -> None:
    assert find_trace_context([("x", "y"), ("traceparent", EXAMPLE)]) == EXAMPLE
    assert ids_of(EXAMPLE) == TraceIds(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7)
    assert is_sampled(EXAMPLE) and not is_sampled(EXAMPLE[:-2] + "00")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        EXAMPLE.upper(),
        EXAMPLE + "\n",
        EXAMPLE + "-x",
        "ff" + EXAMPLE[2:],
        "01" + EXAMPLE[2:],
        EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        EXAMPLE.replace("00f067aa0ba902b7", "0" * 16),
        EXAMPLE.replace("4bf", "٤bf"),
    ],
)
def test_an_invalid_one_is_ignored(wrong: str) -> None:
    assert find_trace_context([("traceparent", wrong)]) is None


def test_several_are_ignored_since_none_is_the_right_one() -> None:
    assert find_trace_context([("traceparent", EXAMPLE)] * 2) is None


@given(st.lists(st.tuples(st.sampled_from(["traceparent", "tracestate"]), st.text(max_size=60))))
def test_anything_may_arrive(properties: list[tuple[str, str]]) -> None:
    found = find_trace_context(properties)
    assert found is None or ids_of(found).trace


@given(st.binary(min_size=16, max_size=16))
def test_a_batchs_trace_has_its_ulid_as_id(number: bytes) -> None:
    batch_id = str(ULID(number))
    context = trace_of_batch(batch_id, 1)
    assert context is not None and find_trace_context([("traceparent", context)]) == context
    assert ids_of(context) == ids_of_batch(batch_id)
    if any(number):
        assert ids_of(context).trace == int.from_bytes(number, "big")
    assert is_sampled(context)


def test_one_in_so_many_batches_is_traced_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(10_000))
    monkeypatch.setattr(os, "urandom", lambda size: next(numbers).to_bytes(size, "big"))
    ids = [new_ulid(1_700_000_000_000_000_000) for _ in range(10_000)]
    traced = [batch_id for batch_id in ids if trace_of_batch(batch_id, 100)]
    assert len(traced) == 100
    assert [batch_id for batch_id in ids if trace_of_batch(batch_id, 100)] == traced, "also when it is sent again"
    assert not any(trace_of_batch(batch_id, 0) for batch_id in ids)
    assert all(trace_of_batch(batch_id, 1) for batch_id in ids)

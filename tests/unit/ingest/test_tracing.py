"""Test which batches ingest traces, and the spans that it records of them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer, StatusCode, Tracer

from ingest.messages import Submission
from ingest.tracing import BURST, EACH_SENDER, TraceLimiter, record_arrivals, traced_commit
from runtime.otlp import TraceIdGenerator
from schema.limits import SPOOL_AGE
from schema.trace_context import ids_of_batch, trace_of_batch
from testbed.fixtures.batches import ARRIVED, new_result, new_submission

RESULT = new_result(1, "192.0.2.1", age=3.0)
FOREIGN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept:
    """A tracer whose spans are kept."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, id_generator=TraceIdGenerator())
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer: Tracer = self.provider.get_tracer("test")

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.provider.shutdown()


def submission(name: str = "m1", context: str | None = None, *, own: bool = True) -> Submission:
    made = new_submission(name, RESULT)
    return replace(made, trace_parent=trace_of_batch(made.batch.id, 1) if own else context)


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def test_a_sender_is_traced_once_in_ten_seconds() -> None:
    limiter, asked = TraceLimiter(), submission()
    assert limiter.admit(asked, 100.0).trace == asked.trace_parent
    assert limiter.admit(asked, 100.0 + EACH_SENDER - 0.1).trace is None
    assert limiter.admit(replace(asked, ipv="v6"), 101.0).trace is not None, "another sender"
    assert limiter.admit(asked, 100.0 + EACH_SENDER).trace is not None


def test_all_senders_together_are_traced_once_a_second() -> None:
    limiter = TraceLimiter()
    at_once = [limiter.admit(submission(f"m{number}"), 100.0).trace for number in range(50)]
    assert sum(trace is not None for trace in at_once) == BURST
    minute = [limiter.admit(submission(f"n{number}"), 100.0 + number / 100).trace for number in range(6_000)]
    assert sum(trace is not None for trace in minute) == pytest.approx(60, abs=1)


@pytest.mark.parametrize("context", [None, FOREIGN[:-2] + "00", FOREIGN[:-2] + "02"])
def test_who_does_not_ask_is_not_traced(context: str | None) -> None:
    assert TraceLimiter().admit(submission(context=context, own=False), 100.0).trace is None


def test_memory_of_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.tracing._SENDERS", 3)
    monkeypatch.setattr("ingest.tracing.BURST", 1_000)
    limiter = TraceLimiter()
    limiter._left = 1_000.0
    traced = [limiter.admit(submission(f"m{number}"), 100.0).trace is not None for number in range(5)]
    assert traced == [True, True, True, False, False]
    assert limiter.admit(submission("m9"), 100.0 + EACH_SENDER).trace is not None, "the others are forgotten"


def commit(kept: Kept, *submissions: Submission) -> list[Submission]:
    """Record what ingest records of these, and return them as the transaction gets them."""
    with traced_commit(kept.tracer, record_arrivals(kept.tracer, submissions)) as traced:
        return list(traced)


def test_the_spans_of_a_batch_follow_each_other_in_one_trace(kept: Kept) -> None:
    made = submission()
    [stored] = commit(kept, replace(made, trace=made.trace_parent))
    spans = kept.spans()
    agent, waiting, committing = (spans[n] for n in ("probe and deliver", "receive batch", "commit batch"))
    ids = ids_of_batch(made.batch.id)
    assert (agent.context.trace_id, agent.context.span_id, agent.parent) == (ids.trace, ids.span, None)
    assert {trace_id(span) for span in (agent, waiting, committing)} == {f"{ids.trace:032x}"}
    assert waiting.parent is not None and waiting.parent.span_id == ids.span
    assert committing.parent is not None and committing.parent.span_id == waiting.context.span_id
    arrived = int(ARRIVED.timestamp() * 1e9)
    assert (agent.start_time, agent.end_time) == (arrived - 3_000_000_000, arrived)
    assert waiting.start_time == arrived
    assert stored.trace == f"00-{ids.trace:032x}-{committing.context.span_id:016x}-03"
    assert waiting.attributes is not None and waiting.attributes["messaging.message.id"] == made.batch.id


def test_a_transaction_is_linked_with_the_traces_of_its_batches(kept: Kept) -> None:
    first, second = submission("m1"), submission("m2")
    commit(kept, replace(first, trace=first.trace_parent), new_submission("m3"), replace(second, trace=FOREIGN))
    of_all = kept.spans()["ingest transaction"]
    commits = [span for span in kept.exporter.get_finished_spans() if span.name == "commit batch"]
    assert {link.context.span_id for link in of_all.links} == {span.context.span_id for span in commits}
    assert all([link.context for link in span.links] == [of_all.context] for span in commits)
    assert of_all.attributes == {"ntppool.batches": 3, "ntppool.results": 2}
    assert trace_id(of_all) not in {trace_id(span) for span in commits}


def test_a_sender_that_records_its_own_spans_gets_none_from_ingest(kept: Kept) -> None:
    commit(kept, replace(submission(), trace=FOREIGN))
    assert "probe and deliver" not in kept.spans()
    assert trace_id(kept.spans()["receive batch"]) == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("age", [-50.0, 1e9])
def test_times_that_a_sender_invents_stay_within_bounds(kept: Kept, age: float) -> None:
    made = new_submission("m1", new_result(1, "192.0.2.1", age=age))
    commit(kept, replace(made, trace=trace_of_batch(made.batch.id, 1)))
    agent = kept.spans()["probe and deliver"]
    assert agent.start_time is not None and agent.end_time is not None
    assert timedelta() <= timedelta(microseconds=(agent.end_time - agent.start_time) / 1000) <= SPOOL_AGE


def test_a_failed_transaction_ends_its_spans_with_an_error(kept: Kept) -> None:
    made = submission()
    with pytest.raises(OSError), traced_commit(kept.tracer, [replace(made, trace=made.trace_parent)]):
        raise OSError("away")
    spans = kept.spans()
    assert {spans[name].status.status_code for name in ("commit batch", "ingest transaction")} == {StatusCode.ERROR}


def test_without_a_traced_batch_nothing_is_done() -> None:
    refuses = SimpleNamespace()  # has no methods
    submissions = [submission("m1"), new_submission("m2")]
    assert record_arrivals(refuses, submissions) == submissions  # type: ignore[arg-type]
    with traced_commit(refuses, submissions) as traced:  # type: ignore[arg-type]
        assert traced is submissions


def test_without_a_collector_a_context_is_passed_on() -> None:
    made = submission()
    with traced_commit(NoOpTracer(), [replace(made, trace=made.trace_parent)]) as [traced]:
        assert traced.trace is not None

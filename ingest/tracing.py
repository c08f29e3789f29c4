"""Record the traces of batches, from the probes to the commit, and pass them on to the scorer.

A sender asks for a trace, and ingest decides: a limit holds for each sender and for all of them together, so that no
monitor can make the pool record more. What a sender says about times and ids is recorded as it is, within bounds.

A transaction stores many batches, so it is a trace of its own, which is linked with those of its batches. The trace of
a batch goes on with the scores of its servers: its context is stored in the same transaction (``score_traces``).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from sqlalchemy.engine import Connection

from ingest.messages import Submission
from ingest.plan import Plan
from ingest.rate_limit import Sender
from runtime.db.bulk import upsert
from runtime.tracing import child_of, context_of, nanoseconds, parentless, start_span_as
from schema.limits import SPOOL_AGE
from schema.tables import score_traces
from schema.trace_context import ids_of, ids_of_batch, is_sampled

EACH_SENDER: Final = 10.0
"""Minimum seconds between two traced batches of a sender."""

EACH_SECOND: Final = 1.0
"""Traced batches per second of all senders, on average."""

BURST: Final = 10
"""Maximum traced batches of all senders at once."""

MOST_SERVERS: Final = 20
"""Maximum servers with whose scores the trace of one batch goes on."""

_SENDERS: Final = 10_000
"""Maximum senders in memory; with more, no further one is traced."""


class TraceLimiter:
    """Limit of the traced batches."""

    def __init__(self) -> None:
        self._traced: dict[Sender, float] = {}
        self._left = float(BURST)
        self._at = 0.0

    def admit(self, submission: Submission, now: float) -> Submission:
        """Return the submission, with a trace if its sender asks for one and the limits allow it.

        Args:
            now: monotonic seconds.
        """
        context = submission.trace_parent
        if context is None or not is_sampled(context) or not self._has_room((submission.name, submission.ipv), now):
            return submission
        return replace(submission, trace=context)

    def _has_room(self, sender: Sender, now: float) -> bool:
        self._left = min(BURST, self._left + (now - self._at) * EACH_SECOND)
        self._at = now
        if self._left < 1 or now - self._traced.get(sender, -EACH_SENDER) < EACH_SENDER:
            return False
        if len(self._traced) >= _SENDERS:
            self._traced = {one: at for one, at in self._traced.items() if now - at < EACH_SENDER}
            if len(self._traced) >= _SENDERS:
                return False
        self._left -= 1
        self._traced[sender] = now
        return True


def record_arrivals(tracer: Tracer, submissions: Sequence[Submission]) -> list[Submission]:
    """Record the probes and the wait in the queue of traced submissions, which are taken from it now."""
    return [each if each.trace is None else _record_arrival(tracer, each, each.trace) for each in submissions]


def _record_arrival(tracer: Tracer, submission: Submission, context: str) -> Submission:
    attributes: dict[str, str | int] = {
        "messaging.system": "mqtt",
        "messaging.message.id": submission.batch.id,
        "messaging.message.body.size": submission.size,
        "ntppool.monitor.name": submission.name,
        "network.type": "ipv4" if submission.ipv == "v4" else "ipv6",
        "ntppool.results": len(submission.batch.results),
    }
    arrived = nanoseconds(submission.arrived)
    if ids_of(context) == ids_of_batch(submission.batch.id):
        _record_agent(tracer, submission, context, arrived)
    waiting = tracer.start_span(
        "receive batch", context_of(context), kind=SpanKind.CONSUMER, attributes=attributes, start_time=arrived
    )
    waiting.end()
    return replace(submission, trace=child_of(waiting))


def _record_agent(tracer: Tracer, submission: Submission, context: str, arrived: int) -> None:
    """Record the span of an agent, which does so itself only if it chooses the ids, too."""
    began = min((result.ts for result in submission.batch.results), default=submission.arrived)
    earliest = max(began, submission.arrived - SPOOL_AGE)
    agent = start_span_as(
        tracer,
        "probe and deliver",
        ids_of(context),
        kind=SpanKind.PRODUCER,
        attributes={"ntppool.monitor.name": submission.name, "ntppool.agent.version": submission.batch.version},
        start_time=min(nanoseconds(earliest), arrived),
    )
    agent.end(arrived)


@contextmanager
def traced_commit(tracer: Tracer, submissions: Sequence[Submission]) -> Iterator[Sequence[Submission]]:
    """Record a transaction within the ``with`` block, and in the traces of its batches; yield the submissions for it.

    A transaction without a traced submission costs nothing.
    """
    if all(each.trace is None for each in submissions):
        yield submissions
        return
    attributes = {
        "ntppool.batches": len(submissions),
        "ntppool.results": sum(len(s.batch.results) for s in submissions),
    }
    with tracer.start_as_current_span("ingest transaction", parentless(), attributes=attributes) as transaction:
        spans: list[Span] = []
        try:
            yield [_begin_commit(tracer, transaction, spans, each) for each in submissions]
        except BaseException:
            for span in spans:
                span.set_status(StatusCode.ERROR)
            raise
        finally:
            for span in spans:
                span.end()


def _begin_commit(tracer: Tracer, transaction: Span, spans: list[Span], submission: Submission) -> Submission:
    if submission.trace is None:
        return submission
    links = [Link(transaction.get_span_context())]
    span = tracer.start_span("commit batch", context_of(submission.trace), links=links)
    transaction.add_link(span.get_span_context())
    spans.append(span)
    return replace(submission, trace=child_of(span))


class _TracedServer(NamedTuple):
    server_id: int
    trace_context: str
    stored_on: datetime


_KEEP: Final = upsert(score_traces, _TracedServer, key=["server_id"], update=["trace_context", "stored_on"])


def keep_traces(connection: Connection, plan: Plan, now: datetime) -> None:
    """Store the traces that go on with a score, in the transaction of ``plan``. ``now`` is naive UTC."""
    traced = {
        server_id: submission.trace
        for submission, ack in plan.acks
        if submission.trace is not None
        for server_id in _stored_servers(plan, submission, {each.index for each in ack.rejected})
    }
    _KEEP.execute(connection, (_TracedServer(*one, now) for one in sorted(traced.items())))


def _stored_servers(plan: Plan, submission: Submission, rejected: set[int]) -> list[int]:
    monitor_id = plan.monitor_ids.get((submission.name, submission.ipv))
    if monitor_id is None or (monitor_id, submission.batch.id) not in plan.batches:
        return []  # of an unknown monitor, or committed before
    results = submission.batch.results
    stored = dict.fromkeys(r.server_id for index, r in enumerate(results) if index not in rejected)
    return list(stored)[:MOST_SERVERS]

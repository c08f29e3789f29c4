"""Continue traces that come with messages, and pass them on (W3C Trace Context).

Spans exist only within such a trace, so without one, nothing is recorded. This module needs OpenTelemetry's interfaces
only; :mod:`runtime.telemetry` loads its implementation if there is a collector.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from schema.trace_context import TraceIds, flags_of, ids_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

given_ids: Final[ContextVar[TraceIds | None]] = ContextVar("given_ids", default=None)
"""Ids of the next span, for the generator of ids of :mod:`runtime.otlp`."""


def context_of(trace_context: str) -> Context:
    """Return the parent of a span that continues a valid trace context."""
    ids = ids_of(trace_context)
    flags = TraceFlags(flags_of(trace_context))
    return set_span_in_context(NonRecordingSpan(SpanContext(ids.trace, ids.span, is_remote=True, trace_flags=flags)))


def parentless() -> Context:
    """Return the parent of a span that begins a trace of its own."""
    return Context()


def child_of(span: Span) -> str:
    """Return the trace context for those who continue the trace of ``span``."""
    context = span.get_span_context()
    return TraceIds(context.trace_id, context.span_id).as_text(context.trace_flags)


def start_span_as(
    tracer: Tracer, name: str, ids: TraceIds, *, kind: SpanKind, attributes: Mapping[str, str], start_time: int
) -> Span:
    """Start the first span of a trace with these ids. ``start_time`` is Unix time in nanoseconds."""
    with _given(ids):
        return tracer.start_span(name, parentless(), kind=kind, attributes=attributes, start_time=start_time)


@contextmanager
def _given(ids: TraceIds) -> Iterator[None]:
    token = given_ids.set(ids)
    try:
        yield
    finally:
        given_ids.reset(token)


def nanoseconds(moment: datetime) -> int:
    """Return an aware time as Unix time in nanoseconds."""
    return (moment - _EPOCH) // _MICROSECOND * 1000

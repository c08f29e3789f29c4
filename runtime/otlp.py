"""Export metrics and traces to a collector, over OTLP/HTTP.

Loaded only if there is one, since it loads slowly. Exports run in threads of the library, with bounded queues: if the
collector is away, the oldest spans are dropped, one warning says so, and nothing waits.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from runtime.log import OngoingWarning
from runtime.tracing import given_ids

log = logging.getLogger(__name__)

_LIBRARY: Final = (
    "opentelemetry.exporter.otlp",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)
"""Loggers of the library: each attempt, export and span that failed has its line there, some with a traceback."""


def metrics_reader() -> MetricReader:
    """Return the reader that exports metrics."""
    _silence_library()
    return PeriodicExportingMetricReader(_Metrics())


def tracer_provider(resource: Resource) -> TracerProvider:
    """Return the provider that exports traces. A trace is recorded if its sender asks for it (or as in
    ``OTEL_TRACES_SAMPLER``)."""
    _silence_library()
    provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=TraceIdGenerator())
    provider.add_span_processor(BatchSpanProcessor(_Spans()))
    return provider


def _silence_library() -> None:
    for name in _LIBRARY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class TraceIdGenerator(RandomIdGenerator):
    """Generator of random ids, or of those in :data:`runtime.tracing.given_ids`."""

    def generate_trace_id(self) -> int:
        ids = given_ids.get()
        return super().generate_trace_id() if ids is None else ids.trace

    def generate_span_id(self) -> int:
        ids = given_ids.get()
        return super().generate_span_id() if ids is None else ids.span


class _Outcome:
    """The warning about a collector that is away. The exporters' own messages do not name what is lost."""

    def __init__(self, what: str, loss: str) -> None:
        self._what = what
        self._loss = loss
        self._warning = OngoingWarning(log, repeat_seconds=None)

    def of(self, succeeded: bool, why: str = "") -> None:
        """Record the outcome of an export."""
        if not succeeded:
            self._warning.warning("%s cannot be exported%s; %s", self._what, why, self._loss)
        elif self._warning.lasting:
            self._warning.over()
            log.info("%s are exported again", self._what)


class _Spans(OTLPSpanExporter):
    def __init__(self) -> None:
        super().__init__()
        self._outcome = _Outcome("traces", "those of the meantime are lost")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = super().export(spans)
        except Exception as error:
            self._outcome.of(False, f" ({type(error).__name__})")
            return SpanExportResult.FAILURE
        self._outcome.of(result is SpanExportResult.SUCCESS)
        return result


class _Metrics(OTLPMetricExporter):
    def __init__(self) -> None:
        super().__init__()
        self._outcome = _Outcome("metrics", "trying again")

    def export(self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kw: Any) -> MetricExportResult:
        try:
            result = super().export(metrics_data, timeout_millis, **kw)
        except Exception as error:
            self._outcome.of(False, f" ({type(error).__name__})")
            return MetricExportResult.FAILURE
        self._outcome.of(result is MetricExportResult.SUCCESS)
        return result

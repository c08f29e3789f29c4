"""Numbers and traces of the server side: OpenTelemetry inside, Prometheus' format at /metrics, OTLP when configured."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from prometheus_client import REGISTRY, make_wsgi_app

from runtime.health import Report

Health = Callable[[], Report]
"""Asked from another thread than the event loop's, so that a loop that hangs is noticed."""


# The library's own buckets are for milliseconds: 5 to 10 000.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IN_SECONDS: Final = View(
    instrument_type=Histogram, instrument_unit="s", aggregation=ExplicitBucketHistogramAggregation(_SECONDS)
)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a worker makes its instruments and spans from."""

    meter: Meter
    tracer: Tracer


@contextmanager
def telemetry(service: str, env: str) -> Iterator[Telemetry]:
    """Telemetry of one process. What was not exported yet is exported at the end, within two seconds."""
    resource = Resource.create({"service.name": f"ntppool-{service}", "deployment.environment": env})
    readers: list[MetricReader] = [PrometheusMetricReader()]
    tracers = TracerProvider(resource=resource)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        # Imported here: the exporter is slow to load and most installations have no collector.
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    views = [_IN_SECONDS]
    meters = MeterProvider(metric_readers=readers, resource=resource, views=views, shutdown_on_exit=False)
    try:
        yield Telemetry(meters.get_meter("ntppool"), tracers.get_tracer("ntppool"))
    finally:
        meters.shutdown(timeout_millis=2_000)
        tracers.shutdown()


@contextmanager
def metrics_server(address: str, port: int | None, health: Health) -> Iterator[None]:
    """Serves ``/metrics`` and ``/healthz`` (JSON; 503 when something is unwell) from a thread; nothing without a port.

    Raises:
        OSError: the address is not ours, or the port is taken.
    """
    if port is None:
        yield
        return
    with make_server(address, port, _app(health), WSGIServer, _QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # a client that says nothing must not hold the only thread

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not news."""


def _app(health: Health) -> Callable[[Any, Any], Any]:
    metrics = make_wsgi_app(REGISTRY)

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        if environ["PATH_INFO"] == "/healthz":
            report = health()
            status = "200 OK" if report.ok else "503 Service Unavailable"
            start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
            return [json.dumps(report.as_json()).encode() + b"\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"try /metrics or /healthz\n"]

    return app

"""Numbers and traces of the server side: OpenTelemetry inside, Prometheus' format at /metrics, OTLP when configured."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from prometheus_client import REGISTRY, make_wsgi_app

Health = Callable[[], str | None]
"""None when all is well, else what is not."""


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
    meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    try:
        yield Telemetry(meters.get_meter("ntppool"), tracers.get_tracer("ntppool"))
    finally:
        meters.shutdown(timeout_millis=2_000)
        tracers.shutdown()


@contextmanager
def metrics_server(address: str, port: int | None, health: Health) -> Iterator[None]:
    """Serves ``/metrics`` and ``/healthz`` (200, or 503 with the reason) from a thread; nothing without a port.

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
            problem = health()
            start_response("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
            return [f"{problem or 'ok'}\n".encode()]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"try /metrics or /healthz\n"]

    return app

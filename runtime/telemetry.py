"""Export metrics and traces of the server side: OpenTelemetry, Prometheus' format at /metrics, optional OTLP."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NoOpTracer, Tracer
from prometheus_client import REGISTRY, make_wsgi_app

from runtime.health import Readiness, Report

State = Callable[[], Report | Readiness]
"""Function that returns the health or readiness; called outside the event loop's thread, so that a hanging loop is
detected."""

# The library's own buckets are for milliseconds: 5 to 10 000.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IN_SECONDS: Final = View(
    instrument_type=Histogram, instrument_unit="s", aggregation=ExplicitBucketHistogramAggregation(_SECONDS)
)

_EXPORT_WITHIN: Final = 1.0
"""Maximum seconds for the last export, since the work may have used three of the five seconds for the shutdown."""

_LOOK_FOR_END: Final = 0.1
"""Seconds between two checks of the server for /metrics for its shutdown."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Factories for a worker's instruments and spans."""

    meter: Meter
    tracer: Tracer
    tracing: bool = False
    """True if traces are exported; without, nothing has to be done for them."""


@contextmanager
def telemetry(service: str, env: str) -> Iterator[Telemetry]:
    """Provide the telemetry of one process. The rest is exported at the end, within a second."""
    resource = Resource.create({"service.name": f"ntppool-{service}", "deployment.environment": env})
    readers: list[MetricReader] = [PrometheusMetricReader()]
    tracer: Tracer = NoOpTracer()
    ends: list[Callable[[], object]] = []
    tracing = _has_collector("TRACES")
    # Imported here, since the exporter loads slowly and most installations have no collector.
    if tracing:
        from runtime.otlp import tracer_provider

        tracers = tracer_provider(resource)
        tracer = tracers.get_tracer("ntppool")
        ends.append(tracers.shutdown)
    if _has_collector("METRICS"):
        from runtime.otlp import metrics_reader

        readers.append(metrics_reader())
    views = [_IN_SECONDS]
    meters = MeterProvider(metric_readers=readers, resource=resource, views=views, shutdown_on_exit=False)
    ends.append(meters.shutdown)
    try:
        yield Telemetry(meters.get_meter("ntppool"), tracer, tracing)
    finally:
        _end_within(_EXPORT_WITHIN, *ends)


def _has_collector(signal: str) -> bool:
    """Return whether the environment has a collector for ``TRACES`` or ``METRICS`` (OpenTelemetry's variables)."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return bool(
        os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )


def _end_within(seconds: float, *ends: Callable[[], object]) -> None:
    """Run all of them concurrently, and abandon those that take longer.

    The exporters' own time-outs limit neither the look-up of a name nor an answer that arrives byte by byte.
    """
    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=end, name="last export", daemon=True) for end in ends]
    with suppress(RuntimeError):  # the system cannot start another thread: skip the export
        for thread in threads:
            thread.start()
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def metrics_server(address: str, port: int | None, states: Mapping[str, State]) -> Iterator[None]:
    """Serve ``/metrics``, and the ``states`` by path (JSON; 503 if not ok), from a thread; do nothing without a port.

    Raises:
        OSError: the address is not local, or the port is in use.
    """
    if port is None:
        yield
        return
    with make_server(address, port, _app(states), _Server, _QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_FOR_END,), name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """Server with a thread per client, so that a silent client delays neither others nor the end of the process."""

    daemon_threads = True
    block_on_close = False


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds until a silent client is disconnected

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log scrapes."""


def _app(states: Mapping[str, State]) -> Callable[[Any, Any], Any]:
    metrics = make_wsgi_app(REGISTRY)
    known = ", ".join(["/metrics", *states])

    def app(environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path in states:
            state = states[path]()
            status = "200 OK" if state.ok else "503 Service Unavailable"
            start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
            return [json.dumps(state.as_json()).encode() + b"\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [f"try one of {known}\n".encode()]

    return app

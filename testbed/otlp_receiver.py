"""Receive traces and metrics over OTLP/HTTP, as a collector does, and keep the spans.

``python -m testbed.otlp_receiver PORT`` prints the spans of each trace as they arrive.
"""

import gzip
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

PROTOBUF: Final = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it arrived. Ids are hexadecimal; times are Unix time in nanoseconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of a trace."""
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """Ids of the linked traces."""


@dataclass(slots=True)
class OtlpReceiver:
    """Spans and names of metrics that were received so far."""

    port: int = 0
    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)

    @property
    def endpoint(self) -> str:
        """Return the value for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self.port}"

    def of_trace(self, trace_id: str) -> dict[str, list[ReceivedSpan]]:
        """Return the spans of a trace by name."""
        found: dict[str, list[ReceivedSpan]] = {}
        for span in tuple(self.spans):
            if span.trace_id == trace_id:
                found.setdefault(span.name, []).append(span)
        return found

    def take_traces(self, body: bytes) -> bytes:
        """Keep the spans of a request, and return the answer."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = str(_attributes(resource.resource.attributes).get("service.name"))
            for scope in resource.scope_spans:
                self.spans += (_received(service, span) for span in scope.spans)
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def take_metrics(self, body: bytes) -> bytes:
        """Keep the names of the metrics of a request, and return the answer."""
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.metrics |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
        return bytes(ExportMetricsServiceResponse().SerializeToString())


def _received(service: str, span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        tuple(link.trace_id.hex() for link in span.links),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: AnyValue = pair.value
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


@contextmanager
def otlp_receiver(port: int = 0) -> Iterator[OtlpReceiver]:
    """Receive on 127.0.0.1, on a free port unless one is given."""
    receiver = OtlpReceiver()
    takers = {"/v1/traces": receiver.take_traces, "/v1/metrics": receiver.take_metrics}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taker = takers.get(self.path)
            if taker is None or self.headers["Content-Type"] != PROTOBUF:
                self.send_error(404 if taker is None else 415)
                return
            answer = taker(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Type", PROTOBUF)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="OTLP receiver", daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _print(port: int) -> None:
    with otlp_receiver(port) as receiver:
        printed = 0
        sys.stdout.write(f"{receiver.endpoint}\n")
        wait = threading.Event()
        while not wait.wait(1.0):
            for span in receiver.spans[printed:]:
                printed += 1
                seconds = (span.end - span.start) / 1e9
                sys.stdout.write(f"{span.trace_id} {seconds:9.4f} s  {span.service:16} {span.name} {span.attributes}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _print(int(sys.argv[1]))

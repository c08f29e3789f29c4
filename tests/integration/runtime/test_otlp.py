"""Test the export over OTLP: what loads it, bounded memory, and one warning for each outage of the collector."""

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from runtime.otlp import tracer_provider
from runtime.tracing import parentless
from testbed.otlp_receiver import otlp_receiver
from testbed.paths import CHECKOUT
from testbed.ports import free_port
from testbed.waiting import block_until

LOADED = """
import sys
from runtime.telemetry import telemetry
with telemetry("test", "devel") as numbers:
    print(numbers.tracing, sorted(name for name in sys.modules if name.startswith("opentelemetry.") and
        (".exporter.otlp" in name or name == "opentelemetry.sdk.trace.export")) != [])
"""


@pytest.mark.parametrize(
    ("environ", "tracing", "loaded"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1/v1/metrics"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, False, False),
    ],
)
def test_the_exporter_is_loaded_only_for_a_collector(environ: dict[str, str], tracing: bool, loaded: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOADED], env={"PYTHONPATH": str(CHECKOUT), **environ}, capture_output=True, text=True
    )
    assert ended.stdout.split() == [str(tracing), str(loaded)], ended.stderr


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export soon, and keep few spans."""
    settings = {
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_BSP_MAX_QUEUE_SIZE": "64",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
    }
    for name, value in (settings | {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def provider(quick: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TracerProvider, int]]:
    """Yield a provider, and the port on which its collector is expected."""
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    made = tracer_provider(Resource.create({"service.name": "ntppool-test"}))
    yield made, port
    made.shutdown()


def test_an_outage_of_the_collector_is_reported_once_and_so_is_its_end(
    provider: tuple[TracerProvider, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made, port = provider
    tracer = made.get_tracer("test")
    for number in range(1_000):  # far more than the queue holds
        tracer.start_span(f"lost {number}", parentless()).end()
    block_until(lambda: "traces cannot be exported" in caplog.text, "the warning")
    for _ in range(100):
        tracer.start_span("lost", parentless()).end()
    with otlp_receiver(port) as receiver:

        def arrives() -> bool:
            tracer.start_span("kept", parentless()).end()
            return any(span.name == "kept" for span in receiver.spans)

        block_until(arrives, "a span after the outage")
        block_until(lambda: "traces are exported again" in caplog.text, "the end of the outage")
        assert sum(span.name.startswith("lost") for span in receiver.spans) <= 64 + 16, "memory is bounded"
    assert [record.levelname for record in caplog.records if record.name == "runtime.otlp"] == ["WARNING", "INFO"]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]

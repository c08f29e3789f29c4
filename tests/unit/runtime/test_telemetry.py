"""Test metrics in the format that Prometheus scrapes."""

import re

from prometheus_client import REGISTRY, generate_latest

from runtime.telemetry import telemetry


def test_histograms_of_seconds_have_buckets_for_seconds() -> None:
    with telemetry("test", "test") as numbers:
        numbers.meter.create_histogram("ntppool.test.round", unit="s").record(0.03)
        text = generate_latest(REGISTRY).decode()
    bounds = re.findall(r'ntppool_test_round_seconds_bucket\{[^}]*le="([^"]+)"', text)
    expected = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
    assert [float(bound) for bound in bounds] == [*expected, float("inf")]

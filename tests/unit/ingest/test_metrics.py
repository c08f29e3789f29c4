"""Test that ingest's metrics agree with the events, and the totals for the answer to ``status``."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ingest.metrics import IngestMetrics
from ingest.plan import Known, StoredMonitor, StoredPair, make_plan
from ingest.queue import SubmissionQueue
from testbed.fixtures.batches import new_result, new_submission

NAME = "nlams1.devel.mon.example"
KNOWN = Known(
    monitors={(NAME, "v4"): StoredMonitor(1, "active")},
    servers={1: "192.0.2.1"},
    pairs={(1, 1): StoredPair(1, "active", 0.0, None, None)},
    batches={},
)


class Metrics:
    """Ingest's metrics, and their values as a collector reads them."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader])
        self.queue = SubmissionQueue()
        self.metrics = IngestMetrics(self._provider.get_meter("test"), self.queue)

    def end(self) -> None:
        self._provider.shutdown()

    def read(self) -> dict[Any, Any]:
        """Return the values by name, or by name and attribute; of a histogram, its count and sum."""
        found: dict[Any, Any] = {}
        data: Any = self._reader.get_metrics_data()
        for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
            name = metric.name.removeprefix("ntppool.ingest.")
            for point in metric.data.data_points:
                key = (name, *point.attributes.values()) if point.attributes else name
                found[key] = point.value if hasattr(point, "value") else (point.count, point.sum)
        return found


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made.end()


def test_a_transaction_is_counted_by_batches_and_results(metrics: Metrics) -> None:
    good, alien = new_result(1, "192.0.2.1"), new_result(2, "192.0.2.2")
    batch = new_submission(NAME, good, new_result(1, "192.0.2.1", rtt=-1.0), alien, alien)
    metrics.metrics.committed(make_plan(KNOWN, [batch, batch, new_submission(NAME)]), 0.25)
    assert metrics.read() == {
        "batches": 2,
        "duplicates": 1,
        "stored": 1,
        ("rejected", "impossible rtt"): 1,
        ("rejected", "unknown server"): 2,
        "transaction": (1, 0.25),
        "waiting": 0,
    }
    assert metrics.metrics.totals == {"batches": 2, "duplicates": 1, "stored": 1, "rejected": 3}


def test_undecodable_dropped_and_expired_items_are_counted(metrics: Metrics) -> None:
    metrics.queue.put(new_submission(NAME, new_result(1, "192.0.2.1")))
    metrics.metrics.unreadable()
    metrics.metrics.dropped("queue is full")
    metrics.metrics.dropped("queue is full")
    metrics.metrics.expired("log_scores", 1_000)
    metrics.metrics.expired("log_scores", 5)
    assert metrics.read() == {
        "unreadable": 1,
        ("dropped", "queue is full"): 2,
        ("expired", "log_scores"): 1_005,
        "waiting": 1,
    }
    assert metrics.metrics.totals == {"unreadable": 1, "queue is full": 2}

"""Define the metrics of the API."""

from opentelemetry.metrics import Meter


class ApiMetrics:
    """Counters of one process."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

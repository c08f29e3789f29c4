"""Define the metrics of the public pages: requests, and refusals."""

from opentelemetry.metrics import Meter


class WebMetrics:
    """Counters and histograms of one process. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self._requests = meter.create_counter(
            "ntppool.web.requests", description="requests of public pages and formats, by route and class of status"
        )
        self._refusals = meter.create_counter("ntppool.web.refusals", description="refused requests, by kind")
        self._seconds = meter.create_histogram(
            "ntppool.web.request", unit="s", description="duration of a request until its answer is complete"
        )

    def requested(self, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is a pattern, never what a client sent."""
        self._requests.add(1, {"route": route, "status": f"{status // 100}xx"})
        self._seconds.record(seconds, {"route": route})

    def refused(self, kind: str) -> None:
        """Count a refused request."""
        self._refusals.add(1, {"kind": kind})

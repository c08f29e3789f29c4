"""Define the scorer's metrics: servers scored, the time that it took, and what still waits."""

from opentelemetry.metrics import Meter

from scorer.rounds import Scored


class ScorerMetrics:
    """Counters, a histogram and a gauge of one scorer."""

    def __init__(self, meter: Meter) -> None:
        self._servers = meter.create_counter("ntppool.scorer.servers", description="servers scored")
        self._logged = meter.create_counter("ntppool.scorer.logged", description="scores that were news")
        self._alarms = meter.create_counter("ntppool.scorer.alarms", description="servers sent to review by a fall")
        self._seconds = meter.create_histogram("ntppool.scorer.batch", unit="s", description="time of one transaction")
        self._backlog = meter.create_gauge("ntppool.scorer.backlog", description="servers that wait for their score")

    def scored(self, scored: Scored, seconds: float) -> None:
        """Count a round that scored servers, and record its time in seconds."""
        self._servers.add(scored.claimed)
        self._logged.add(scored.logged)
        self._alarms.add(len(scored.alarming))
        self._seconds.record(seconds)

    def backlog(self, due: int) -> None:
        """Set the number of servers that wait for their score."""
        self._backlog.set(due)

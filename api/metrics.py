"""Define the API's metrics: requests, refusals, registrations, what was issued, its ends, and the agents."""

from collections.abc import Callable, Mapping
from datetime import datetime

from opentelemetry.metrics import CallbackOptions, Counter, Meter, Observation


class ApiMetrics:
    """Counters and histograms of one API process. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        def counter(name: str, description: str) -> Counter:
            return meter.create_counter(f"ntppool.api.{name}", description=description)

        self._requests = counter("requests", "requests, by route and class of status")
        self._refusals = counter("refusals", "refused requests, by kind")
        self._registrations = counter("registrations", "answers to registrations, by status")
        self._keys_refused = counter("keys_refused", "requests with an API key that is not valid, or without one")
        self._issued = counter("issued", "tokens and certificates issued, by kind")
        self._seconds = meter.create_histogram(
            "ntppool.api.request", unit="s", description="duration of a request until its answer is complete"
        )
        self._agents = meter.create_gauge(
            "ntppool.api.agents", description="agents of monitors that shall probe, by state: connected or away"
        )
        self._meter = meter

    def requested(self, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is a pattern, never what a client sent."""
        self._requests.add(1, {"route": route, "status": f"{status // 100}xx"})
        self._seconds.record(seconds, {"route": route})

    def refused(self, kind: str) -> None:
        """Count a refused request."""
        self._refusals.add(1, {"kind": kind})

    def registration(self, status: str) -> None:
        """Count an answer to a registration: ``pending``, ``accepted``, ``completed`` or ``refused``."""
        self._registrations.add(1, {"status": status})

    def key_refused(self) -> None:
        """Count a request whose API key is missing or not valid."""
        self._keys_refused.add(1)

    def agents(self, states: Mapping[str, int]) -> None:
        """Set the numbers of agents by state: ``connected`` and ``away``."""
        for state, number in states.items():
            self._agents.set(number, {"state": state})

    def show_time(self, name: str, description: str, moment: Callable[[], datetime | None], **labels: str) -> None:
        """Export a time, which is aware, as Unix time; ``None``: it is unknown, and not exported."""

        def observe(options: CallbackOptions) -> list[Observation]:
            found = moment()
            return [] if found is None else [Observation(found.timestamp(), labels)]

        self._meter.create_observable_gauge(f"ntppool.{name}_timestamp", [observe], unit="s", description=description)

    def issued(self, kind: str) -> None:
        """Count what was issued: ``token``, ``access_token``, ``certificate`` or ``key_and_certificate``."""
        self._issued.add(1, {"kind": kind})

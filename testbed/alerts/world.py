"""Describe what Prometheus sees of a pool: a healthy one, and what happens in it.

Values are by minute. Something fails at the minute :data:`T`.
"""

import functools
import itertools
from collections.abc import Iterable
from typing import Final

SERVICES: Final = ("ingest", "scorer", "selector", "api")
CHECKS: Final = ("broker", "database", "work")
FEW: Final = range(2)
"""Agents, where they do not matter."""
MANY: Final = range(10)
T: Final = 15
"""Minute at which things fail: later than the longest window of most rules."""
DAY: Final = 86_400
MINUTES: Final = 122

Values = list[float | str]
"""Values of a series by minute; ``_`` is none, and ``stale`` ends the series."""

World = dict[str, Values]
"""Values by series, without the environment."""


def gauge(good: float, bad: float = 0, begin: int = 0, end: int = 0) -> Values:
    """Return a gauge that is ``good``, but ``bad`` from one minute until before another."""
    return [bad if begin <= minute < end else good for minute in range(MINUTES)]


def counter(good: float, bad: float = 0, begin: int = 0, end: int = 0) -> Values:
    """Return a counter that increases by ``good`` each minute, but by ``bad`` from one minute until before another."""
    return [*itertools.accumulate(float(step) for step in gauge(good, bad, begin, end))]


def gone(values: Values, begin: int, end: int) -> Values:
    """Return these values, but none from one minute until before another; a counter then begins anew."""
    return [*values[:begin], "stale", *["_"] * (end - begin - 1), *values[: len(values) - end]]


def series(name: str, **labels: object) -> str:
    """Return the name of a series with these labels."""
    inside = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}"


def of(service: str, name: str, number: int = 1, **labels: object) -> str:
    """Return a series of one process of a worker or the API."""
    return series(name, job="ntppool", service=service, instance=f"{service}:{number}", **labels)


def check(name: str, service: str) -> str:
    """Return the series of a check of ``/healthz`` by the blackbox exporter."""
    labels = {"job": f"ntppool-health-{name}", "service": service, "instance": f"{service}:1", "check": name}
    return series("probe_success", **labels)


def listener(service: str, name: str = "probe_success") -> str:
    """Return a series of the TLS listener of the broker or the API."""
    return series(name, job="ntppool-listeners", service=service, instance=f"{service}.example:1", check="listener")


def agent(number: int, name: str, **labels: object) -> str:
    """Return a series of an agent."""
    return series(name, job="ntppool-agents", instance=f"agent{number}", **labels)


STORED: Final = of("ingest", "ntppool_ingest_stored_total")
BATCHES: Final = of("ingest", "ntppool_ingest_batches_total")
UNREADABLE: Final = of("ingest", "ntppool_ingest_unreadable_total")
REJECTED: Final = of("ingest", "ntppool_ingest_rejected_total", reason="impossible rtt")
DROPPED: Final = of("ingest", "ntppool_ingest_dropped_total", reason="rate limit exceeded")
QUEUE_FULL: Final = of("ingest", "ntppool_ingest_dropped_total", reason="queue is full")
WAITING: Final = of("ingest", "ntppool_ingest_waiting")
SCORED: Final = of("scorer", "ntppool_scorer_servers_total")
BACKLOG: Final = of("scorer", "ntppool_scorer_backlog")
REVIEWS: Final = of("selector", "ntppool_selector_reviews_total", outcome="unchanged")
DUE: Final = of("selector", "ntppool_selector_due")
LOST: Final = of("selector", "ntppool_selector_publish_lost_total")
REPAIRS: Final = of("selector", "ntppool_selector_repairs_total", what="missing")
BAD_ROWS: Final = of("selector", "ntppool_selector_bad_rows_total", kind="pair")
ACTIVE: Final = of("selector", "ntppool_selector_pairs", status="active")
TESTING: Final = of("selector", "ntppool_selector_pairs", status="testing")
CANDIDATES: Final = of("selector", "ntppool_selector_pairs", status="candidate")
ANSWERED: Final = of("api", "ntppool_api_requests_total", route="/api/v1/monitor", status="2xx")
FAILED: Final = of("api", "ntppool_api_requests_total", route="/api/v1/monitor", status="5xx")
FAILED_OPS: Final = of("api", "ntppool_api_requests_total", route="/ops/monitors/metrics", status="5xx")
LOGINS: Final = of("api", "ntppool_api_refusals_total", kind="login")
SHARES: Final = of("api", "ntppool_api_refusals_total", kind="share")
KEYS: Final = of("api", "ntppool_api_keys_refused_total")
DEFECTS: Final = of("scorer", "ntppool_database_errors_total", kind="defect")
CONFLICTS: Final = of("ingest", "ntppool_database_retries_total", kind="conflict")
CONNECTIONS: Final = of("selector", "ntppool_broker_connections_total")
ROOT_END: Final = of("api", "ntppool_ca_root_end_timestamp_seconds")
LIST_END: Final = of("api", "ntppool_ca_revocation_list_end_timestamp_seconds", ca="files")
KEY_WRITTEN: Final = of("api", "ntppool_token_key_written_timestamp_seconds")
BROKER_CERTIFICATE: Final = listener("broker", "probe_ssl_earliest_cert_expiry")


def transactions(fast: Values, slow: Values) -> World:
    """Return the buckets of ingest's transactions, which take 50 ms, or 5 s."""
    bounds = {"0.05": fast, "2.5": fast, "5.0": _sum(fast, slow), "+Inf": _sum(fast, slow)}
    return {of("ingest", "ntppool_ingest_transaction_seconds_bucket", le=le): values for le, values in bounds.items()}


def requests(fast: Values, slow: Values, route: str = "/api/v1/monitor") -> World:
    """Return the buckets of the API's requests, which take 50 ms, or 5 s."""
    bounds = {"0.05": fast, "2.5": fast, "5.0": _sum(fast, slow), "+Inf": _sum(fast, slow)}
    name = "ntppool_api_request_seconds_bucket"
    return {of("api", name, route=route, le=le): values for le, values in bounds.items()}


def _sum(left: Values, right: Values) -> Values:
    return [float(a) + float(b) for a, b in zip(left, right, strict=True)]


def process(service: str, number: int = 1) -> World:
    """Return what every process has."""
    return {
        of(service, "up", number): gauge(1),
        of(service, "process_start_time_seconds", number): gauge(1000),
        of(service, "ntppool_clock_doubted", number): gauge(0),
        of(service, "ntppool_clock_ahead_seconds", number): gauge(-0.004),
        of(service, "ntppool_broker_connected", number): gauge(1),
        of(service, "ntppool_broker_connections_total", number): gauge(1),
        of(service, "ntppool_database_errors_total", number, kind="defect"): gauge(0),
        of(service, "ntppool_database_retries_total", number, kind="conflict"): counter(0.1),
    }


@functools.cache
def healthy() -> World:
    """Return a pool in which nothing is wrong: a process of each kind, and ten agents."""
    world: World = {}
    for service in SERVICES:
        world |= process(service)
        world |= {check(name, service): gauge(1) for name in CHECKS}
    for service in ("broker", "api"):
        world[listener(service)] = gauge(1)
        world[listener(service, "probe_ssl_earliest_cert_expiry")] = gauge(100 * DAY)
    world |= {STORED: counter(600), BATCHES: counter(60), WAITING: gauge(3)}
    world |= {REJECTED: counter(1), UNREADABLE: counter(0), DROPPED: counter(0)}
    world |= transactions(counter(60), counter(0))
    world |= {SCORED: counter(60), BACKLOG: gauge(0)}
    world |= {REVIEWS: counter(30), DUE: gauge(0), LOST: counter(0), REPAIRS: counter(0)}
    world |= {ACTIVE: gauge(100), TESTING: gauge(60), CANDIDATES: gauge(800)}
    world |= {ANSWERED: counter(600), FAILED: counter(0), KEYS: counter(1), LOGINS: counter(1)}
    world |= requests(counter(600), counter(0))
    world |= {ROOT_END: gauge(900 * DAY), LIST_END: gauge(30 * DAY), KEY_WRITTEN: gauge(-100 * DAY)}
    return world | healthy_agents(FEW)


def healthy_agents(numbers: Iterable[int]) -> World:
    """Return agents that probe, with synchronous clocks."""
    world: World = {}
    for number in numbers:
        world |= {
            agent(number, "up"): gauge(1),
            agent(number, "ntppool_agent_connected"): gauge(1),
            agent(number, "ntppool_agent_probing", protocol="v4"): gauge(1),
            agent(number, "ntppool_agent_clock_offset_seconds", protocol="v4"): gauge(0.0004),
            agent(number, "ntppool_agent_spool_batches", protocol="v4"): gauge(1),
            agent(number, "ntppool_agent_clock_checks_total"): counter(1),
            agent(number, "ntppool_agent_clock_checks_failed_total"): counter(0),
        }
    return world


# ---- what happens in it ----------------------------------------------------------------------------------------------


def without(begin: int, end: int, text: str, world: World | None = None) -> World:
    """Return the healthy series that contain a text, but no values from one minute until before another."""
    found = {name: values for name, values in (world or healthy()).items() if text in name}
    assert found, text
    return {name: gone(values, begin, end) for name, values in found.items()}


def down(service: str, begin: int, end: int) -> World:
    """Return what is seen of a process that does not run from one minute until before another."""
    return without(begin, end, f'job="ntppool", service="{service}"') | {
        of(service, "up"): gauge(1, 0, begin, end),
        **{check(name, service): gauge(1, 0, begin, end) for name in CHECKS},
    }


def failing(name: str, begin: int, end: int, services: Iterable[str] = SERVICES) -> World:
    """Return a check that fails in these processes."""
    return {check(name, service): gauge(1, 0, begin, end) for service in services}


def idle(begin: int, end: int) -> World:
    """Return the counters of workers that do nothing."""
    return {
        STORED: counter(600, 0, begin, end),
        BATCHES: counter(60, 0, begin, end),
        SCORED: counter(60, 0, begin, end),
        REVIEWS: counter(30, 0, begin, end),
    }


def offline(count: int, begin: int, end: int) -> World:
    """Return ten agents of which ``count`` are not connected, and so no targets."""
    found = healthy_agents(MANY)
    for number in range(count):
        found |= without(begin, end, f'instance="agent{number}"', found)
    return found


def silent(count: int, begin: int, end: int) -> World:
    """Return ten agents of which ``count`` are targets, but do not answer."""
    return offline(count, begin, end) | {agent(number, "up"): gauge(1, 0, begin, end) for number in range(count)}


def wrong_clocks(count: int, begin: int, end: int) -> World:
    """Return ten agents of which ``count`` fail all checks of their clocks, and do not probe."""
    found = healthy_agents(MANY)
    for number in range(count):
        found[agent(number, "ntppool_agent_clock_checks_failed_total")] = counter(0, 1, begin, end)
        found[agent(number, "ntppool_agent_probing", protocol="v4")] = gauge(1, 0, begin, end)
    return found


def not_probing(count: int, begin: int, end: int) -> World:
    """Return ten agents of which ``count`` do not probe."""
    return healthy_agents(MANY) | {
        agent(number, "ntppool_agent_probing", protocol="v4"): gauge(1, 0, begin, end) for number in range(count)
    }


def drifting(count: int, offset: float, begin: int, end: int) -> World:
    """Return ten agents of which ``count`` have clocks that differ by ``offset`` seconds."""
    return healthy_agents(MANY) | {
        agent(number, "ntppool_agent_clock_offset_seconds", protocol="v4"): gauge(0, offset, begin, end)
        for number in range(count)
    }


def without_protocol(count: int, begin: int, end: int) -> World:
    """Return ten agents for ``count`` of which the pool has configured no protocol."""
    found = healthy_agents(MANY)
    for number in range(count):
        probing = agent(number, "ntppool_agent_probing", protocol="v4")
        found[probing] = gone(found[probing], begin, end)
    return found


def spool(number: int, values: Values) -> World:
    """Return the batches in the spool of an agent."""
    return {agent(number, "ntppool_agent_spool_batches", protocol="v4"): values}


SMALL_POOL: Final[World] = {
    STORED: counter(1),
    BATCHES: counter(1),
    UNREADABLE: counter(0, 0.3, T, 60),
    REJECTED: counter(0, 0.6, T, 60),
    ANSWERED: counter(1),
    FAILED: counter(0, 0.4, T, 60),
    KEYS: counter(0, 0.6, T, 60),
}
"""A pool so small that a few failures are a large share, and raise nothing."""

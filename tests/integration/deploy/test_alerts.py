"""Test each alert with promtool: when it fires and clears, that it is silent below its threshold, and that its cause
raises no other alert.

In each case, something fails at the minute :data:`T`. Many cases are evaluated together, each in an environment of its
own, since promtool takes long for each run.
"""

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from testbed.paths import CHECKOUT

PROMETHEUS: Final = CHECKOUT / "deploy" / "prometheus"
RULES: Final = PROMETHEUS / "rules.yaml"
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


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; skip the test without one, or let it fail in continuous integration."""
    program = shutil.which("promtool", path=f"{CHECKOUT / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None and "CI" not in os.environ:
        pytest.skip("promtool is missing; run scripts/bootstrap")
    assert program is not None, "promtool is missing; run scripts/bootstrap"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, check=False)


GROUPS: Final[Any] = yaml.safe_load(RULES.read_text())["groups"]
RULES_BY_NAME: Final[Mapping[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
"""The alerts."""


# ---- the world -------------------------------------------------------------------------------------------------------


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
    inside = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}"


def of(service: str, name: str, number: int = 1, **labels: object) -> str:
    return series(name, job="ntppool", service=service, instance=f"{service}:{number}", **labels)


def check(name: str, service: str) -> str:
    labels = {"job": f"ntppool-health-{name}", "service": service, "instance": f"{service}:1", "check": name}
    return series("probe_success", **labels)


def listener(service: str, name: str = "probe_success") -> str:
    return series(name, job="ntppool-listeners", service=service, instance=f"{service}.example:1", check="listener")


def agent(number: int, name: str, **labels: object) -> str:
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
    return world | healthy_agents(FEW)


def healthy_agents(numbers: Iterable[int]) -> World:
    """Return agents that probe, with synchronous clocks."""
    world: World = {}
    for number in numbers:
        world |= {
            agent(number, "up"): gauge(1),
            agent(number, "ntppool_agent_connected"): gauge(1),
            agent(number, "ntppool_agent_probing", protocol="v4"): gauge(1),
            agent(number, "ntppool_agent_probing", protocol="v6"): gauge(0),
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


def spool(number: int, values: Values) -> World:
    return {agent(number, "ntppool_agent_spool_batches", protocol="v4"): values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What happens, and which alert it raises, and never any other."""

    alert: str
    bad: World
    fires: int
    """First minute at which it fires."""
    clears: int
    """First minute at which it does not fire any more."""
    says: str
    """Its description when it begins to fire."""
    near: World = field(default_factory=dict)
    """What may happen and raises nothing."""
    labels: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Alerts that fire, too, at a different time: the first minute, and the first one after."""
    note: str = ""
    """Distinguishes cases of an alert with the same labels."""
    after: int = 3
    """Minutes for which nothing may fire afterwards."""

    @property
    def environment(self) -> str:
        """The name of the environment, which describes the case."""
        return "-".join(filter(None, (self.alert, *self.labels.values(), self.note)))

    @property
    def times(self) -> dict[str, tuple[int, int]]:
        """Each alert that fires, with its first minute, and the first one after."""
        return {self.alert: (self.fires, self.clears), **self.before}

    @property
    def until(self) -> int:
        """The length of the run in minutes."""
        return self.clears + self.after


CASES: Final = (
    Case(
        alert="NtppoolAllDown",
        bad={name: values for service in SERVICES for name, values in down(service, T, 30).items()}
        | {listener("broker"): gauge(1, 0, T, 30), listener("api"): gauge(1, 0, T, 30)}
        | silent(10, T, 32),
        near={name: values for service in SERVICES for name, values in down(service, T, T + 2).items()},
        fires=T + 2,
        clears=30,
        says="Prometheus reaches no ingest, scorer, selector or API.",
        after=18,
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("ingest", T, 40) | idle(T, 40) | {ACTIVE: gauge(100)} | spool(0, gauge(1, 40, T, 45)),
        near=down("scorer", T, T + 2),
        labels={"service": "ingest"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind ingest.",
        after=18,
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("scorer", T, 40),
        labels={"service": "scorer"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind scorer.",
    ),
    Case(  # it crashes three times, and is not started any more
        alert="NtppoolServiceDown",
        bad=down("scorer", T, 50)
        | {of("scorer", "process_start_time_seconds"): gone([*gauge(1)[:12], 2.0, 3.0, *gauge(4)[14:]], T, 50)},
        note="crashes",
        labels={"service": "scorer"},
        fires=T + 2,
        clears=50,
        says="Prometheus reaches 0 processes of the kind scorer.",
        before={"NtppoolRestarts": (15, T + 2)},
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("selector", T, 40),
        labels={"service": "selector"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind selector.",
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("api", T, 40) | {listener("api"): gauge(1, 0, T, 40)} | silent(10, T, 42),
        labels={"service": "api"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind api.",
    ),
    Case(  # a kind that is in no list of targets
        alert="NtppoolServiceDown",
        bad=without(T, 40, 'service="scorer"'),
        note="not a target",
        labels={"service": "scorer"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind scorer.",
    ),
    Case(
        alert="NtppoolProcessDown",
        bad={of("ingest", "up", 2): gauge(1, 0, T, 30)},
        near={of("ingest", "up", 2): gauge(1, 0, T, T + 5)},
        labels={"service": "ingest"},
        fires=T + 5,
        clears=30,
        says="Processes of the kind ingest that cannot be reached: 1. Others do their work.",
    ),
    Case(
        alert="NtppoolRestarts",
        bad={of("api", "process_start_time_seconds"): [*gauge(1)[:T], *[2.0] * 3, *[3.0] * 3, *gauge(4)[T + 6 :]]},
        near={of("api", "process_start_time_seconds"): [*gauge(1)[:T], *[2.0] * 3, *gauge(3)[T + 3 :]]},
        labels={"service": "api"},
        fires=T + 7,
        clears=T + 30,
        says="It has started 3 times within half an hour.",
    ),
    Case(
        alert="NtppoolDatabaseUnavailable",
        bad=failing("database", T, 40)
        | failing("work", T + 2, 41)
        | idle(T, 40)
        | transactions(counter(60, 0, T, 40), counter(0, 6, T, 40))
        | {FAILED: counter(0, 300, T, 40), DUE: gauge(0, 400, T, 42), QUEUE_FULL: counter(0, 50, T, 40)}
        | {name: gauge(0, 1, T + 1, 41) for name in healthy() if "doubted" in name and "ingest" in name},
        near=failing("database", T, T + 1),
        fires=T + 1,
        clears=40,
        says="Processes with no answer from the database, or only errors, for more than half a minute: 4.",
        after=18,
    ),
    Case(
        alert="NtppoolBrokerUnavailable",
        bad=failing("broker", T, 40)
        | idle(T, 41)
        | offline(10, T, 42)
        | {listener("broker"): gauge(1, 0, T, 40), LOST: counter(0, 2, T, 40), REPAIRS: counter(0, 400, 40, 42)},
        near=failing("broker", T, T + 1),
        fires=T + 1,
        clears=40,
        says="Processes without a connection to the broker for more than half a minute: 4.",
        after=18,
    ),
    Case(
        alert="NtppoolUnreachable",
        bad={listener("broker"): gauge(1, 0, T, 40)} | offline(10, T, 42) | {STORED: counter(600, 0, T, 41)},
        near={listener("broker"): gauge(1, 0, T, T + 2), listener("api"): gauge(1, 0, T, T + 2)},
        labels={"service": "broker"},
        fires=T + 2,
        clears=40,
        says="A TLS connection to the address that agents use fails, or its certificate is not accepted, although the "
        "processes themselves report no failure. The probe returned 0.",
    ),
    Case(
        alert="NtppoolUnreachable",
        bad={listener("api"): gauge(1, 0, T, 30)},
        labels={"service": "api"},
        fires=T + 2,
        clears=30,
        says="A TLS connection to the address that agents use fails, or its certificate is not accepted, although the "
        "processes themselves report no failure. The probe returned 0.",
    ),
    Case(
        alert="NtppoolClockDoubted",
        bad=idle(T, 40)
        | {name: gauge(0, 1, T, 40) for name in healthy() if "clock_doubted" in name}
        | {name: gauge(0, 7, T, 40) for name in healthy() if "clock_ahead" in name},
        near={name: gauge(0, 1, T, T + 2) for name in healthy() if "clock_doubted" in name},
        fires=T + 2,
        clears=40,
        says="Processes that do not trust their clock, and store, score and review nothing: 4.",
        after=18,
    ),
    Case(
        alert="NtppoolClockDrifts",
        bad={of("scorer", "ntppool_clock_ahead_seconds"): gauge(0, -1.2, T, 40)},
        near={of("scorer", "ntppool_clock_ahead_seconds"): gauge(0, -0.99, T, 40)},
        fires=T + 10,
        clears=40,
        says="The clocks of a worker's host and of the database differ by 1.2 s. From 5 s on, nothing is stored.",
    ),
    Case(
        alert="NtppoolWorkStuck",
        bad=failing("work", T, 40, SERVICES[:3]) | idle(T, 40) | {DUE: gauge(0, 400, T, 41)},
        near=failing("work", T, T + 1),
        fires=T + 1,
        clears=40,
        says="Processes whose event loop hangs, or in which one round of work takes longer than two minutes: 3.",
        after=18,
    ),
    Case(
        alert="NtppoolUnstable",
        bad={check("database", "ingest"): [0.0 if m in (15, 25, 35) else 1.0 for m in range(MINUTES)]},
        near={check("database", "ingest"): [0.0 if m in (15, 35) else 1.0 for m in range(MINUTES)]},
        fires=36,
        clears=75,
        says="Within an hour, their state has changed 6 times.",
    ),
    Case(
        alert="NtppoolDatabaseSlow",
        bad=transactions(counter(60, 0, T, 40), counter(0, 60, T, 40)) | {WAITING: gauge(3, 9000, T, 40)},
        near=transactions(counter(60, 55, T, 40), counter(0, 5, T, 40)),
        fires=T + 6,
        clears=48,
        says="A tenth of ingest's transactions take longer than 4.6 s. Agents send a batch again after 10 s without an "
        "answer.",
    ),
    Case(
        alert="NtppoolNoResults",
        bad=idle(T, 40) | {REVIEWS: counter(30), WAITING: gauge(3, 20_000, T, 40)} | spool(0, gauge(1, 40, T, 45)),
        near={STORED: [float(m // 9) for m in range(MINUTES)], REJECTED: counter(0), ACTIVE: gauge(100)},
        fires=T + 12,
        clears=40,
        says="Ingest has stored 0 results per second in the last ten minutes, although monitors are assigned and "
        "nothing else fails.",
    ),
    Case(  # the counter has no series before its first increment
        alert="NtppoolNoResults",
        bad={STORED: gone(counter(600), T, 40), SCORED: counter(60, 0, T, 40)},
        near={STORED: counter(0), REJECTED: counter(0), SCORED: counter(0), BACKLOG: gauge(0), ACTIVE: gauge(0)},
        note="no counter",
        fires=T + 12,
        clears=41,
        says="Ingest has stored 0 results per second in the last ten minutes, although monitors are assigned and "
        "nothing else fails.",
    ),
    Case(
        alert="NtppoolIngestBehind",
        bad={WAITING: gauge(3, 2001, T, 40), QUEUE_FULL: counter(0, 1000, T, 40)},
        near={WAITING: gauge(3, 2000, T, 40), QUEUE_FULL: counter(0, 1000, T, 40)},
        fires=T + 10,
        clears=40,
        says="2001 results wait for a transaction.",
    ),
    Case(
        alert="NtppoolMessagesDropped",
        bad={DROPPED: counter(0, 6, T, 40)},
        near={DROPPED: counter(0, 2.9, T, 40)},
        labels={"reason": "rate limit exceeded"},
        fires=T + 10,
        clears=44,
        says="It drops 0.10 messages per second; agents send those with results again.",
    ),
    Case(
        alert="NtppoolUndecodable",
        bad={UNREADABLE: counter(0, 2, T, 40)},
        near={UNREADABLE: counter(0, 5, T, 40), BATCHES: counter(600)},
        fires=T + 9,
        clears=50,
        says="It refuses 0.022 messages per second, more than one in a hundred.",
    ),
    Case(  # there are no batches but these
        alert="NtppoolUndecodable",
        bad={UNREADABLE: counter(0, 1, T, T + 6), BATCHES: ["_"] * MINUTES, STORED: counter(600)},
        near={UNREADABLE: counter(0, 1, T, T + 4), BATCHES: ["_"] * MINUTES},
        note="no batches",
        fires=T + 9,
        clears=31,
        says="It refuses 0.007 messages per second, more than one in a hundred.",
    ),
    Case(
        alert="NtppoolResultsRejected",
        bad={REJECTED: counter(1, 60, T, 45)},
        near={REJECTED: counter(1, 30, T, 45)},
        fires=T + 17,
        clears=52,
        says="It rejects 9.091% of all results.",
    ),
    Case(
        alert="NtppoolScorerStalled",
        bad={SCORED: counter(60, 0, T, 40)},
        near={SCORED: [float(m // 9) for m in range(MINUTES)], BACKLOG: gauge(0)},
        fires=T + 14,
        clears=40,
        says="0 servers per second were scored in the last ten minutes, although results arrive.",
    ),
    Case(
        alert="NtppoolScorerBehind",
        bad={BACKLOG: gauge(0, 130, T, 40)},
        near={BACKLOG: gauge(0, 119, T, 40)},
        fires=T + 10,
        clears=40,
        says="At its present speed it needs 2m 10s for the servers that wait.",
    ),
    Case(
        alert="NtppoolSelectorStalled",
        bad={DUE: gauge(0, 5, T, 40), REVIEWS: counter(30, 0, T, 40)},
        near={DUE: gauge(0, 5, T, 40)},
        fires=T + 15,
        clears=40,
        says="5 servers or more have been due for ten minutes, and none was reviewed.",
    ),
    Case(
        alert="NtppoolSelectorBehind",
        bad={DUE: gauge(0, 500, T, 40)},
        near={DUE: gauge(0, 440, T, 40)},
        fires=T + 10,
        clears=40,
        says="At its present speed it needs 16m 40s for the servers that are due.",
    ),
    Case(
        alert="NtppoolAssignmentsLost",
        bad={LOST: counter(0, 1, T, 40)},
        near={LOST: counter(0, 50, T, T + 1)},
        fires=T + 10,
        clears=49,
        says="0.017 assignments per second stay without an acknowledgement, although the selector is connected.",
    ),
    Case(
        alert="NtppoolAssignmentsDrift",
        bad={REPAIRS: counter(0, 2, T, 60)},
        near={REPAIRS: counter(0, 480, T, T + 2)},
        fires=T + 35,
        clears=69,
        says="30 were repaired within a quarter of an hour.",
    ),
    Case(
        alert="NtppoolRowsSkipped",
        bad={BAD_ROWS: counter(0, 1, T, T + 1)},
        labels={"kind": "pair"},
        fires=T + 15,
        clears=75,
        says="It has met such rows 0.0003 times per second within an hour.",
    ),
    Case(
        alert="NtppoolActivePairsFell",
        bad={ACTIVE: gauge(100, 79, T, 60)},
        near={ACTIVE: gauge(100, 81, T, 60)},
        fires=T + 15,
        clears=60,
        says="79% of the active pairs of the last three hours are left.",
    ),
    Case(
        alert="NtppoolApiErrors",
        bad={FAILED: counter(0, 60, T, 40)},
        near={FAILED: counter(0, 30, T, 40), FAILED_OPS: counter(0, 500, T, 40)},
        fires=T + 10,
        clears=44,
        says="9.091% of the requests are answered with a status of 500 or more.",
    ),
    Case(
        alert="NtppoolApiSlow",
        bad=requests(counter(600, 500, T, 45), counter(0, 100, T, 45)),
        near=requests(counter(600, 550, T, 45), counter(0, 50, T, 45))
        | requests(counter(0), counter(0, 900, T, 45), route="/ops/check/ntp/{ip}"),
        fires=T + 16,
        clears=48,
        says="A tenth of the requests take longer than 3.5 s.",
    ),
    Case(
        alert="NtppoolApiRefusals",
        bad={LOGINS: counter(1, 30, T, 50)},
        near={LOGINS: counter(1, 11.9, T, 50), SHARES: counter(0, 1000, T, 50)},
        labels={"kind": "login"},
        fires=T + 13,
        clears=56,
        says="It refuses 0.50 requests per second.",
    ),
    Case(
        alert="NtppoolApiKeysRefused",
        bad={KEYS: counter(1, 200, T, 50)},
        near={KEYS: counter(1, 119, T, 50)},
        fires=T + 18,
        clears=56,
        says="33.33% of the requests have no valid API key.",
    ),
    Case(
        alert="NtppoolCertificateEnds",
        bad={BROKER_CERTIFICATE: gauge(100 * DAY, 21 * DAY + 60 * T, T, 40)},
        near={BROKER_CERTIFICATE: gauge(21 * DAY + 7200)},
        labels={"service": "broker"},
        fires=T + 11,
        clears=40,
        says="It ends in 21.0 days.",
    ),
    Case(
        alert="NtppoolCertificateEndsNow",
        bad={BROKER_CERTIFICATE: gauge(3 * DAY + 60 * 30, 400 * DAY, 45, MINUTES)},
        labels={"service": "broker"},
        fires=31,
        clears=45,
        says="It ends in 3.0 days; then no agent can connect.",
        before={"NtppoolCertificateEnds": (10, 31)},
    ),
    Case(
        alert="NtppoolAgentsNotWatched",
        bad=without(0, 40, 'job="ntppool-agents"'),
        near=without(0, 40, 'job="ntppool-agents"') | {ACTIVE: gauge(0), TESTING: gauge(0)},
        fires=15,
        clears=40,
        says="No agent has answered Prometheus for a day, although 160 pairs are to be measured.",
    ),
    Case(
        alert="NtppoolAgentsOffline",
        bad=offline(3, T, 50) | {ACTIVE: gauge(100, 70, T + 15, 100)},
        near=offline(2, T, 50),
        note="some",
        fires=T + 10,
        clears=50,
        says="30% of those that have answered within a day do not any more.",
    ),
    Case(
        alert="NtppoolAgentsOffline",
        bad=offline(10, T, 50) | idle(T, 50) | {REVIEWS: counter(30), ACTIVE: gauge(100, 0, T + 15, 100)},
        note="all",
        fires=T + 10,
        clears=50,
        says="100% of those that have answered within a day do not any more.",
    ),
    Case(
        alert="NtppoolAgentsClocksWrong",
        bad=wrong_clocks(4, T, 80),
        near=wrong_clocks(1, T, 80),
        fires=45,
        clears=94,
        says="40% of the agents fail most of their clock checks, and do not probe.",
    ),
    Case(
        alert="NtppoolAgentsNotProbing",
        bad=not_probing(3, T, 60),
        near=not_probing(2, T, 60),
        fires=T + 30,
        clears=60,
        says="30% of the agents do not probe, for other reasons than their clocks.",
    ),
    Case(
        alert="NtppoolSpoolsGrow",
        bad=spool(0, gauge(1, 21, T, 60)),
        near=spool(0, gauge(1, 20, T, 60)) | spool(1, [float(max(1, 2000 - 20 * m)) for m in range(MINUTES)]),
        fires=T + 30,
        clears=60,
        says="Monitors whose spools have held more than 20 batches for a quarter of an hour, and do not "
        "shrink, although ingest stores results of others: 1.",
    ),
)
"""What happens to one environment."""

BLIND: Final = (
    Case(
        alert="NtppoolNotWatched",
        bad=without(T, 40, 'job="ntppool"'),
        labels={"job": "ntppool"},
        fires=T + 5,
        clears=40,
        says="Prometheus has no target in the job ntppool, so every other alert is silent.",
    ),
    Case(
        alert="NtppoolProbesMissing",
        bad=without(T, 40, "probe_"),
        fires=T + 5,
        clears=40,
        says="Environments in which the blackbox exporter yields no result for /healthz or for the TLS "
        "listeners: 1. Failures of their databases and brokers, and certificates that end, are not reported.",
    ),
)
"""What makes Prometheus itself blind; these alerts are for all environments."""


# ---- promtool --------------------------------------------------------------------------------------------------------


def input_series(environment: str, world: World, until: int) -> list[dict[str, str]]:
    return [
        {
            "series": name.replace("{", f'{{environment="{environment}", ', 1),
            "values": notation(tuple(values[: until + 1])),
        }
        for name, values in (healthy() | world).items()
    ]


@functools.cache
def notation(values: tuple[float | str, ...]) -> str:
    """Return values in the notation of promtool, in which evenly rising ones are one word."""
    words: list[str] = []
    place = 0
    while place < len(values):
        first, end = values[place], place + 1
        if isinstance(first, str):
            words.append(first)
        else:
            step = _step(values, place)
            while end < len(values) and _step(values, end - 1) == step is not None:
                end += 1
            words.append(f"{first:.12g}" if step is None else f"{first:.12g}+{step:.12g}x{end - place - 1}")
        place = end
    return " ".join(words).replace("+-", "-")


def _step(values: tuple[float | str, ...], place: int) -> float | None:
    pair = values[place : place + 2]
    return float(pair[1]) - float(pair[0]) if len(pair) == 2 and not any(isinstance(v, str) for v in pair) else None


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


def labels_of(case: Case, alert: str) -> dict[str, str]:
    place = {} if case in BLIND else {"environment": case.environment}
    return place | dict(case.labels) | {"severity": RULES_BY_NAME[alert]["labels"]["severity"]}


def expected(case: Case) -> Iterator[dict[str, Any]]:
    """Yield what must fire at the edges, and for how many minutes in all, so that nothing fires in between."""
    times, place = case.times, "" if case in BLIND else case.environment
    chosen = f'alertstate="firing", environment="{place}"'
    samples = {alert: series("", alertname=alert, alertstate="firing", **labels_of(case, alert)) for alert in times}
    for minute in sorted({edge - early for span in times.values() for edge in span for early in (0, 1)}):
        now = [name for name, span in times.items() if minute in range(*span)]
        yield {
            "expr": f"ALERTS{{{chosen}}}",
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f"ALERTS{samples[name]}", "value": 1} for name in now],
        }
    yield {
        "expr": f"count_over_time(ALERTS{{{chosen}}}[{case.until}m])",
        "eval_time": f"{case.until}m",
        "exp_samples": [{"labels": samples[name], "value": end - begin} for name, (begin, end) in times.items()],
    }


def texts(cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
    """Yield the tests of what each alert says when it begins to fire, in all cases in which it does so together."""
    by_start: dict[tuple[str, int], list[Case]] = {}
    for case in cases:
        by_start.setdefault((case.alert, case.fires), []).append(case)
    for (alert, minute), found in by_start.items():
        said = [{"exp_labels": labels_of(case, alert), "exp_annotations": annotations(case)} for case in found]
        yield {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": said}


def annotations(case: Case) -> dict[str, str]:
    labels, given = labels_of(case, case.alert), RULES_BY_NAME[case.alert]["annotations"]
    summary = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], given["summary"])
    return {**given, "summary": summary, "description": case.says}


def together(cases: Sequence[Case]) -> dict[str, Any]:
    """Return a group of tests for promtool: each case in an environment of its own."""
    until = max(case.until for case in cases)
    return {
        "interval": "1m",
        "input_series": [one for case in cases for one in input_series(case.environment, case.bad, until)],
        "promql_expr_test": [*itertools.chain.from_iterable(map(expected, cases))],
        "alert_rule_test": [*texts(cases)],
    }


def run(group: Mapping[str, Any], directory: Path) -> str:
    """Run a group of tests; return what promtool says if one fails, else nothing."""
    file = directory / "tests.json"
    order = [group["name"] for group in GROUPS]
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "group_eval_order": order,
        "tests": [group],
    }
    file.write_text(json.dumps(tests))
    ended = promtool("test", "rules", str(file))
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


# ---- tests -----------------------------------------------------------------------------------------------------------


def by_length() -> list[list[Case]]:
    """Return the cases in groups of similar length, in each of which an alert begins at one time only."""
    groups: list[list[Case]] = []
    for case in sorted(CASES, key=lambda case: case.until):
        for group in groups:
            others = {alert: times[0] for one in group for alert, times in one.times.items()}
            together = all(others.get(alert, times[0]) == times[0] for alert, times in case.times.items())
            if together and case.until <= group[0].until + 12:
                group.append(case)
                break
        else:
            groups.append([case])
    return groups


@pytest.mark.parametrize("cases", [*by_length(), *([case] for case in BLIND)], ids=lambda cases: f"{cases[0].until}m")
def test_alerts_fire_alone_and_in_time_and_clear(cases: Sequence[Case], tmp_path: Path) -> None:
    assert run(together(cases), tmp_path) == ""


def merged_nears() -> list[World]:
    """Return worlds in which everything is nearly bad enough: of what is not about the same series, all at once."""
    worlds = [dict(SMALL_POOL)]
    for near in (case.near for case in (*CASES, *BLIND) if case.near):
        fitting = next((world for world in worlds if world.keys().isdisjoint(near)), None)
        if fitting is None:
            worlds.append(dict(near))
        else:
            fitting.update(near)
    return worlds


def test_what_is_not_bad_enough_raises_no_alert(tmp_path: Path) -> None:
    until = 62
    group = {
        "interval": "1m",
        "input_series": [
            one for number, world in enumerate(merged_nears()) for one in input_series(f"near {number}", world, until)
        ],
        "promql_expr_test": [
            {
                "expr": f'count_over_time(ALERTS{{alertstate="firing"}}[{until}m])',
                "eval_time": f"{until}m",
                "exp_samples": [],
            }
        ],
    }
    assert run(group, tmp_path) == ""


def test_every_alert_has_a_test() -> None:
    assert {case.alert for case in (*CASES, *BLIND)} == set(RULES_BY_NAME)


def test_the_files_are_valid_and_no_rule_is_twice() -> None:
    for arguments in (
        ("check", "rules", str(RULES)),
        ("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yaml")),
    ):
        ended = promtool(*arguments)
        assert ended.returncode == 0 and "WARNING" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr


def test_queries_of_the_dashboards_are_valid(tmp_path: Path) -> None:
    boards = [json.loads(path.read_text()) for path in (CHECKOUT / "deploy" / "grafana").glob("*.json")]
    queries = [
        target["expr"].replace("$__rate_interval", "5m")
        for board in boards
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    ended = promtool("check", "rules", str(file))
    assert ended.returncode == 0 and len(queries) > 60, ended.stderr

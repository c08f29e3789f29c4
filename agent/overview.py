"""What an agent says about itself: to the pool, to operators, and to the ``status`` command."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from agent.metrics import AgentCounters, prometheus_text
from agent.pipeline import Line
from agent.status_file import AgentReport
from agent.version import VERSION
from schema.messages import SpoolState, Status
from schema.names import Environment, IpVersion

Lines = Mapping[IpVersion, Line]

LAST_RESULTS = 10
"""Results in the report."""


def online_status(lines: Lines) -> Status:
    """The status message of an agent that runs."""
    states = {ipv: line.runner.state() for ipv, line in lines.items()}
    return Status(
        online=True,
        ts=datetime.now(UTC),
        version=VERSION,
        protocols={ipv: state for ipv, state in states.items() if state is not None},
        spool=SpoolState(
            batches=sum(len(line.spool) for line in lines.values()),
            bytes=sum(line.spool.bytes for line in lines.values()),
            dropped_results=sum(line.spool.counters.dropped_results for line in lines.values()),
            set_aside=sum(line.spool.counters.set_aside for line in lines.values()),
        ),
    )


def offline_status() -> Status:
    """The status message of an agent that ends in order."""
    return Status(online=False, ts=datetime.now(UTC), version=VERSION)


def metrics(lines: Lines, counters: AgentCounters, connected: bool) -> str:
    """Counters and gauges as Prometheus text."""
    gauges: dict[str, float] = {"connected": connected}
    per_protocol: dict[str, Callable[[Line], float]] = {
        "probing": lambda line: line.runner.why_not is None,
        "assignments": lambda line: len(line.runner.assignments),
        "spool_batches": lambda line: len(line.spool),
        "spool_bytes": lambda line: line.spool.bytes,
        "spool_torn_batches": lambda line: line.spool.counters.torn,
    }
    for name, value in per_protocol.items():
        for ipv, line in lines.items():
            gauges[f'{name}{{protocol="{ipv}"}}'] = value(line)
    return prometheus_text(counters, gauges)


def report(
    name: str,
    env: Environment,
    started: datetime,
    broker: str,
    disconnected_because: str | None,
    lines: Lines,
    counters: AgentCounters,
    troubles: Sequence[str] = (),
) -> AgentReport:
    """What the ``status`` command shows; ``disconnected_because`` is None while there is a connection."""
    stuck = (trouble for line in lines.values() for trouble in (line.collector.trouble, line.outbox.trouble))
    results = [result for line in lines.values() for result in line.runner.last_results]
    results.sort(key=lambda result: result.ts, reverse=True)
    return AgentReport(
        name=name,
        env=env,
        pid=os.getpid(),
        written=datetime.now(UTC),
        started=started,
        broker=broker,
        connected=disconnected_because is None,
        disconnected_because=disconnected_because,
        status=online_status(lines),
        troubles=list(dict.fromkeys((*troubles, *filter(None, stuck)))),
        set_aside_torn=sum(line.spool.counters.torn for line in lines.values()),
        probes_unsent=counters.probes_unsent,
        results_unproven=counters.results_unproven,
        last_results=results[:LAST_RESULTS],
    )

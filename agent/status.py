"""Report the agent's state: the retained status for the pool, metrics, and the report for the ``status`` command."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from agent.daemon_settings import DaemonSettings
from agent.metrics import AgentCounters, prometheus_text
from agent.pipeline import Pipeline
from agent.status_file import AgentReport
from agent.version import VERSION
from runtime.log import OngoingWarning
from runtime.mqtt.session import NotConnected, PublishRefused
from schema.limits import STATUS_REFRESH
from schema.messages import SpoolState, Status
from schema.names import Environment, IpVersion

Pipelines = Mapping[IpVersion, Pipeline]

LAST_RESULTS = 10
"""Number of results in the report."""


def online_status(pipelines: Pipelines, *, traceroute: bool = False) -> Status:
    """Return the status message of a running agent, which can trace routes or not."""
    states = {ipv: pipeline.prober.state() for ipv, pipeline in pipelines.items()}
    return Status(
        online=True,
        ts=datetime.now(UTC),
        version=VERSION,
        protocols={ipv: state for ipv, state in states.items() if state is not None},
        spool=SpoolState(
            batches=sum(len(pipeline.spool) for pipeline in pipelines.values()),
            bytes=sum(pipeline.spool.bytes for pipeline in pipelines.values()),
            dropped_results=sum(pipeline.spool.counters.dropped_results for pipeline in pipelines.values()),
            set_aside=sum(pipeline.spool.counters.set_aside for pipeline in pipelines.values()),
        ),
        traceroute=traceroute,
    )


def offline_status() -> Status:
    """Return the status message of an agent that shuts down cleanly."""
    return Status(online=False, ts=datetime.now(UTC), version=VERSION)


def metrics(pipelines: Pipelines, counters: AgentCounters, connected: bool) -> str:
    """Return counters and gauges as Prometheus text."""
    gauges: dict[str, float] = {"connected": connected}
    # Without a protocol that this monitor does not have: it is not one by which probing has stopped.
    per_protocol: dict[str, Callable[[Pipeline], float | None]] = {
        "probing": lambda pipeline: pipeline.prober.why_not is None if pipeline.prober.used else None,
        "assignments": lambda pipeline: len(pipeline.prober.assignments) if pipeline.prober.used else None,
        "clock_offset_seconds": lambda pipeline: pipeline.prober.clock.offset,
        "spool_batches": lambda pipeline: len(pipeline.spool),
        "spool_bytes": lambda pipeline: pipeline.spool.bytes,
        "spool_torn_batches": lambda pipeline: pipeline.spool.counters.torn,
    }
    for name, value in per_protocol.items():
        for ipv, pipeline in pipelines.items():
            if (found := value(pipeline)) is not None:
                gauges[f'{name}{{protocol="{ipv}"}}'] = found
    return prometheus_text(counters, gauges)


def report(
    name: str,
    env: Environment,
    started: datetime,
    broker: str,
    disconnected_because: str | None,
    pipelines: Pipelines,
    counters: AgentCounters,
    troubles: Sequence[str],
    settings: DaemonSettings,
    *,
    traceroute: bool = False,
) -> AgentReport:
    """Return the report for the ``status`` command; ``disconnected_because`` is ``None`` while connected."""
    stuck = (
        trouble for pipeline in pipelines.values() for trouble in (pipeline.batcher.trouble, pipeline.sender.trouble)
    )
    results = [result for pipeline in pipelines.values() for result in pipeline.prober.last_results]
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
        status=online_status(pipelines, traceroute=traceroute),
        troubles=list(dict.fromkeys((*troubles, *filter(None, stuck)))),
        set_aside_torn=sum(pipeline.spool.counters.torn for pipeline in pipelines.values()),
        probes_unsent=counters.probes_unsent,
        results_unproven=counters.results_unproven,
        last_results=results[:LAST_RESULTS],
        settings_file=settings.defaults_file,
        settings_stamp=settings.defaults_stamp,
    )


def waiting_report(settings: DaemonSettings, started: datetime, waiting_for: str) -> AgentReport:
    """Return the report of a daemon that waits until this monitor is set up."""
    return AgentReport(
        name="",
        env=settings.env,
        pid=os.getpid(),
        written=datetime.now(UTC),
        started=started,
        broker="",
        connected=False,
        status=offline_status(),
        waiting_for=waiting_for,
        settings_file=settings.defaults_file,
        settings_stamp=settings.defaults_stamp,
    )


def summary(report: AgentReport) -> str:
    """Return the state of the daemon on one line, for ``systemctl status``."""
    if report.waiting_for is not None:
        return f"waiting, not probing: {report.waiting_for}"
    states = report.status.protocols
    parts = [
        f"IP{ipv}: {f'probing {state.assignments} servers' if state.probing else f'not probing, {state.why_not}'}"
        for ipv, state in states.items()
    ]
    if not report.connected:
        parts.append(f"not connected to {report.broker} ({report.disconnected_because})")
    return f"{report.name}: {'; '.join(parts) or 'not configured by the pool yet'}"


log = logging.getLogger(__name__)

SETTLE: Final = 1.0
"""Seconds by which changes are debounced."""

REPORT_EVERY: Final = 30.0
"""Seconds after which the report for the ``status`` command is rewritten without a change."""


class Presence:
    """Publish the status when it changes, and at regular intervals. Run :meth:`run` as a task.

    Args:
        status: returns the current status.
        publish: raises :class:`NotConnected` or :class:`PublishRefused`.
        wait_ready: waits for a connection.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        publish: Callable[[Status], Awaitable[None]],
        wait_ready: Callable[[], Awaitable[None]],
        *,
        settle: float = SETTLE,
    ) -> None:
        self._status = status
        self._publish = publish
        self._wait_ready = wait_ready
        self._settle = settle
        self._changed = asyncio.Event()
        self._published: Status | None = None
        self._refresh_at = 0.0
        """Time of the event loop at which the status is published again, however often it may have changed before."""
        self._warning = OngoingWarning(log)

    def changed(self) -> None:
        """Record that the status may have changed."""
        self._changed.set()

    def connected(self) -> None:
        """Publish the status again, since the broker may have published the last will."""
        self._published = None
        self._changed.set()

    async def run(self) -> None:
        """Publish the status until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_ready()
            # Also at first: assignments are arriving, and a status with half of them would make the selector send all
            # again.
            await asyncio.sleep(self._settle)
            self._changed.clear()
            status = self._status()
            if _without_changing_figures(status) != self._published or loop.time() >= self._refresh_at:
                self._refresh_at = loop.time() + STATUS_REFRESH.total_seconds()
                await self._publish_now(status)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._refresh_at):
                    await self._changed.wait()

    async def _publish_now(self, status: Status) -> None:
        published = _without_changing_figures(status)
        self._published = published
        try:
            await self._publish(status)
        except NotConnected:
            if self._published is published:
                self._published = None
            self._changed.set()
        except PublishRefused as error:
            # An immediate retry would be refused again: the next change or refresh is early enough.
            self._warning.warning("the status could not be published: %s", error)
        else:
            self._warning.over()


def _without_changing_figures(status: Status) -> Status:
    """Return the status without figures that change all the time."""
    spool = SpoolState(dropped_results=status.spool.dropped_results, set_aside=status.spool.set_aside)
    return msgspec.structs.replace(status, ts=None, spool=spool)


async def report_changes(
    write: Callable[[], None], changed: asyncio.Event, *, settle: float = SETTLE, every: float = REPORT_EVERY
) -> None:
    """Call ``write`` after each change, debounced by ``settle`` seconds, and at least once every ``every`` seconds."""
    while True:
        changed.clear()
        write()
        await asyncio.sleep(settle)
        try:
            async with asyncio.timeout(every):
                await changed.wait()
        except TimeoutError:
            pass

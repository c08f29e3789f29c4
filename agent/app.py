"""Run one agent: build and connect all of its parts, and run them in one task group."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from agent.control import ControlCommands
from agent.daemon_settings import DaemonSettings
from agent.delivery.batcher import Batcher
from agent.delivery.sender import Sender
from agent.delivery.spool import Spool
from agent.handlers import Handlers
from agent.login import Login
from agent.pipeline import BatchLink, Lasting, Pipeline
from agent.prober import MAX_PROBES, Prober, ProberContext
from agent.reconnect import Reconnect, refuses_credentials
from agent.requests import Requests
from agent.state import StateDirectory, StateError
from agent.status import Presence, metrics, offline_status, online_status, report, report_changes, summary
from agent.status_file import write_report
from agent.systemd import show_status
from agent.version import VERSION
from runtime.control import CommandRefused
from runtime.log import OngoingWarning
from runtime.mqtt.session import (
    BrokerSession,
    Identity,
    Incoming,
    Lost,
    NotConnected,
    PublishRefused,
    Subscription,
    Will,
)
from schema.limits import STATUS_EXPIRY, WILL_DELAY
from schema.messages import Status, encode
from schema.names import IP_VERSIONS, IpVersion
from schema.topics import ANY, Topics

log = logging.getLogger(__name__)

KEEP_SESSION: Final = timedelta(days=1)
"""Time for which the broker keeps the session and its messages while the agent is disconnected."""

CLOCK_STEP_CHECK_EVERY: Final = 1.0
"""Seconds between two checks for a clock step, in addition to the one after every probe."""

GOODBYE_WITHIN: Final = 2.0
"""Maximum seconds for publishing the offline status."""


class Agent:
    """Run an agent with one identity, for as long as ``state.json`` is unchanged.

    Args:
        passing: a separate run beside the daemon, which does not affect the monitor's presence.
        why_not: returns why the pool does not want this monitor to probe, if so.
        trouble: returns a problem with the pool's API, if there is one.
        on_refused: called when the broker refuses our token or certificate.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        directory: StateDirectory,
        login: Login,
        lasting: Lasting,
        on_reload: Callable[[], None],
        *,
        passing: bool = False,
        why_not: Callable[[], str | None] = lambda: None,
        trouble: Callable[[], str | None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = login.state
        self._unwanted = why_not
        self._trouble = trouble
        self._on_refused = on_refused
        self._settings = settings
        self.lasting = lasting
        self._login = login
        self._directory = directory
        self._topics = Topics(settings.env)
        self._passing = passing
        self._on_reload = on_reload
        self._report_due = asyncio.Event()
        self._lost_because: str | None = "not connected yet"
        self._reconnect = Reconnect()
        self._report_warning = OngoingWarning(log)
        self.configured = asyncio.Event()
        """Set when a configuration has arrived."""
        self.left = asyncio.Event()
        """Set when a batch has left a spool."""
        self._context = self._make_context()
        self.presence = Presence(self.status, self._publish_status, lambda: self.session.wait_ready())
        self.pipelines = {
            ipv: self._make_pipeline(ipv, lasting.spools[ipv], ipv in settings.protocols) for ipv in IP_VERSIONS
        }
        probers = {ipv: pipeline.prober for ipv, pipeline in self.pipelines.items()}
        senders = {ipv: pipeline.sender for ipv, pipeline in self.pipelines.items()}
        self._handlers = Handlers(
            self._topics, probers, senders, lasting.counters, settings.log_level, on_config=self.configured.set
        )
        self._requests = Requests(
            self.state.name,
            self._topics,
            self._context.rules,
            probers,
            lasting.counters,
            self.metrics,
            lasting.gate,
            self._answer,
        )
        self._control = ControlCommands(
            self.state.name, self.status, self._recheck, self._wake_all, self._reload, lasting.pause
        )
        self.session = self._make_session()

    # ---- running ---------------------------------------------------------------------------------------------------

    async def run(self, ends: asyncio.Event, says_goodbye: Callable[[], bool]) -> None:
        """Run until ``ends`` is set; then store the remaining results and disconnect cleanly.

        Args:
            says_goodbye: called at the end; returns whether to publish that the agent is offline.
        """
        await self.serve(self._parts(), ends, says_goodbye)

    async def serve(
        self, parts: Mapping[str, Coroutine[Any, Any, None]], ends: asyncio.Event, says_goodbye: Callable[[], bool]
    ) -> None:
        """Run like :meth:`run`, but with the given parts beside the broker session."""
        async with asyncio.TaskGroup() as group:
            session = group.create_task(self.session.run(), name="session")
            tasks = [group.create_task(part, name=name) for name, part in parts.items()]
            await ends.wait()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.gather(*(pipeline.batcher.close() for pipeline in self.pipelines.values()))
            if says_goodbye():
                await self._say_goodbye()
            session.cancel()
            await asyncio.wait({session}, timeout=GOODBYE_WITHIN)
            session.cancel()  # again, in case the broker did not answer the first time

    def _parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        parts: dict[str, Coroutine[Any, Any, None]] = {
            "presence": self.presence.run(),
            "report": report_changes(self.report, self._report_due),
            "ad hoc": self._requests.run(),
            "control": self._control.run(self.session),
            "clock watch": self.watch_clock(),
        }
        for ipv, pipeline in self.pipelines.items():
            parts[f"prober {ipv}"] = pipeline.prober.run()
            parts[f"batcher {ipv}"] = pipeline.batcher.run()
            parts[f"sender {ipv}"] = pipeline.sender.run()
        return parts

    async def watch_clock(self) -> None:
        """Check for steps of the wall clock until cancelled."""
        while True:
            await asyncio.sleep(CLOCK_STEP_CHECK_EVERY)
            self.check_for_clock_step()

    async def _say_goodbye(self) -> None:
        with suppress(NotConnected, PublishRefused):
            await self._publish_status(offline_status(), timeout=GOODBYE_WITHIN)

    # ---- status, metrics and report --------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return the agent's status message."""
        return online_status(self.pipelines, traceroute=self.lasting.gate.able())

    def metrics(self) -> str:
        """Return the agent's metrics as Prometheus text."""
        return metrics(self.pipelines, self.lasting.counters, self.session.connected)

    def report(self) -> None:
        """Write the report for the ``status`` command."""
        because = None if self.session.connected else self._lost_because or "disconnected"
        broker = str(self.session.address)
        lasting = self.lasting
        troubles = [*self._login.troubles(), *filter(None, [self._trouble()])]
        made = report(
            self.state.name,
            self._topics.env,
            lasting.started,
            broker,
            because,
            self.pipelines,
            lasting.counters,
            troubles,
            self._settings,
            traceroute=lasting.gate.able(),
        )
        show_status(summary(made))
        try:
            write_report(self._directory, made)
            self._report_warning.over()
        except OSError as error:
            self._report_warning.warning("%s: %s", self._directory.status_file, error.strerror or error)

    def report_soon(self) -> None:
        """Schedule a report, since its content has changed."""
        self._report_due.set()

    # ---- the local clock and other reasons not to probe ------------------------------------------------------------

    def check_for_clock_step(self) -> None:
        """Discard probes and results that a step of the wall clock has made unreliable."""
        step = self.lasting.watch.step()
        if step is None:
            return
        self.lasting.counters.clock_steps += 1
        discarded = sum(pipeline.prober.discard_untrusted() for pipeline in self.pipelines.values())
        self.lasting.counters.probes_discarded += discarded
        log.warning("the clock was set by %+.3f s: %d probes and results discarded", step, discarded)
        self._changed()

    def _why_not(self) -> str | None:
        if self._reconnect.kept_away:
            return "another agent has connected with this monitor's name"
        if (unwanted := self._unwanted()) is not None:
            return unwanted
        return "paused by an operator" if self._control.paused else None

    def reconsider(self) -> None:
        """Look again whether the pool wants this monitor to probe."""
        self._wake_all()

    def _changed(self) -> None:
        self.presence.changed()
        self.report_soon()

    def _wake_all(self) -> None:
        for pipeline in self.pipelines.values():
            pipeline.prober.wake()
        self._changed()

    def _make_context(self) -> ProberContext:
        return ProberContext(
            name=self.state.name,
            rules=self._directory.rules(self.state),
            slots=asyncio.Semaphore(MAX_PROBES),
            watch=self.lasting.watch,
            counters=self.lasting.counters,
            resolver=self.lasting.resolver,
            clock=time.monotonic,
            why_not=self._why_not,
            check_for_clock_step=self.check_for_clock_step,
            on_change=self._changed,
        )

    # ---- the broker session ----------------------------------------------------------------------------------------

    def _make_pipeline(self, ipv: IpVersion, spool: Spool, enabled: bool) -> Pipeline:
        counters = self.lasting.counters
        topic = self._topics.results(self.state.name, ipv)
        link = BatchLink(lambda: self.session, topic, self._settings.trace_batches)
        batcher = Batcher(
            spool,
            VERSION,
            counters,
            on_batch=lambda: sender.wake(),
            room=link.room,
            on_trouble=lambda: self._wake_all(),
        )
        sender = Sender(spool, link, counters, on_sent=batcher.sent, on_done=self._batch_left)
        return Pipeline(Prober(ipv, self._context, batcher, enabled=enabled), batcher, sender, spool)

    def _batch_left(self) -> None:
        self.left.set()
        self._changed()

    def _make_session(self) -> BrokerSession:
        name, topics = self.state.name, self._topics
        offline = Status(online=False)
        return BrokerSession(
            self._login.tls.address,
            Identity(name, f"{name}/once" if self._passing else name),
            self._login.token.read,
            subscriptions=[
                Subscription(topics.config(name), self._handlers.config),
                Subscription(topics.assignments(name), self._handlers.assignment),
                Subscription(topics.acks(name, ANY), self._handlers.ack),
                Subscription(topics.request(name, ANY), self._on_request, qos=0),
                Subscription(topics.monitor_control(name), self._control.on_message),
            ],
            will=None if self._passing else Will(topics.status(name), encode(offline), WILL_DELAY, STATUS_EXPIRY),
            keep=timedelta(0) if self._passing else KEEP_SESSION,
            on_session=self._on_session,
            on_ready=self._on_ready,
            on_lost=self._on_lost,
            back_off=self._back_off,
            tls=self._login.tls,
        )

    def _on_session(self, lasting: bool) -> None:
        self.lasting.counters.connections += 1
        if lasting:
            return
        for pipeline in self.pipelines.values():
            pipeline.prober.forget_assignments()
            pipeline.sender.send_again()

    def _on_ready(self) -> None:
        self._reconnect.connected()
        self._lost_because = None
        for pipeline in self.pipelines.values():
            pipeline.sender.on_connected()
        self.presence.connected()
        self._wake_all()

    def _on_lost(self, lost: Lost) -> None:
        self._lost_because = lost.reason
        if refuses_credentials(lost):
            self._on_refused()
        self.report_soon()

    def _back_off(self, lost: Lost, failures: int) -> float:
        wait = self._reconnect.back_off(lost, failures, unwanted=self._unwanted() is not None)
        self._wake_all()
        return wait

    def _on_request(self, message: Incoming) -> None:
        address = self._topics.parse(message.topic)
        self._requests.on_message("" if address is None else address.rest, message)

    async def _publish_status(self, status: Status, timeout: float = 10.0) -> None:
        topic = self._topics.status(self.state.name)
        await self.session.publish(topic, encode(status), retain=True, expiry=STATUS_EXPIRY, timeout=timeout)

    async def _answer(self, topic: str, payload: bytes, *, qos: int, correlation: bytes | None) -> None:
        await self.session.publish(topic, payload, qos=qos, correlation=correlation)

    # ---- control ----------------------------------------------------------------------------------------------------

    def _recheck(self) -> None:
        for pipeline in self.pipelines.values():
            pipeline.prober.clock.recheck()
        self._wake_all()

    def _reload(self) -> None:
        try:
            self._directory.read_state()
        except StateError as error:
            raise CommandRefused(str(error)) from error
        self._on_reload()

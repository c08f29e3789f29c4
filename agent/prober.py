"""Probe the assigned servers of one protocol when they are due and probing is allowed.

Probing starts and stops automatically with the configuration, the clock check and the state of the agent; the reason
why it is stopped is always known.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from agent.assignments import AssignmentRefused, Assignments
from agent.clock.check import base_checks
from agent.clock.monitor import LocalClock
from agent.clock.step import ClockWatch
from agent.clock.verdict import ClockVerdict
from agent.delivery.batcher import Batcher
from agent.metrics import AgentCounters
from agent.network import SilenceJudge, Verdict
from agent.ntp.measurement import Sample, best, to_result
from agent.ntp.probe import Source, probe
from agent.ntp.resolver import Resolver
from agent.ntp.targets import Target, TargetRules
from agent.schedule import Schedule, monitor_number
from runtime.log import OngoingWarning
from schema.messages import LIVE, Assignment, ProtocolConfig, ProtocolState, Result
from schema.names import IpVersion

log = logging.getLogger(__name__)

MAX_PROBES: Final = 64
"""Maximum number of concurrent probes, for both protocols together."""

LAST_RESULTS: Final = 10
"""Number of results remembered for the ``status`` command."""


class ProberContext(msgspec.Struct, frozen=True):
    """The state that the probers of both protocols share."""

    name: str
    rules: TargetRules
    slots: asyncio.Semaphore
    watch: ClockWatch
    counters: AgentCounters
    resolver: Resolver
    clock: Callable[[], float]
    """Monotonic seconds."""
    why_not: Callable[[], str | None]
    """Return why nothing may be probed at all; ``None`` if probing is allowed."""
    check_for_clock_step: Callable[[], None]
    """Detect a step of the wall clock, and make all probers discard unreliable results."""
    on_change: Callable[[], None]
    """Called when the content of the status message has changed."""


class Prober:
    """Probe the servers of one protocol. Run :meth:`run` as a task."""

    def __init__(self, ipv: IpVersion, context: ProberContext, batcher: Batcher, *, enabled: bool) -> None:
        self.ipv = ipv
        self.config: ProtocolConfig | None = None
        self.assignments = Assignments(ipv, context.rules)
        self.clock = LocalClock(
            context.counters, context.resolver, context.clock, context.check_for_clock_step, self._on_verdict
        )
        self.last_results: deque[Result] = deque(maxlen=LAST_RESULTS)
        self._context = context
        self._batcher = batcher
        self._enabled = enabled
        self._schedule = Schedule(monitor_number(context.name), context.watch.wall_ahead)
        self._source = Source(None)
        self._probing = False
        self._silence = SilenceJudge()
        self._decided = asyncio.Event()
        """Set while no result waits for a check."""
        self._decided.set()
        self._clock_steps = 0
        """Number of clock steps so far: a probe that started before the last one is discarded."""
        self._probes: set[asyncio.Task[None]] = set()
        self._measuring: set[asyncio.Task[None] | None] = set()
        """The tasks among these, and others, that are counted as probes and have no result yet."""
        self._wake = asyncio.Event()
        self._trouble = OngoingWarning(log)

    @property
    def why_not(self) -> str | None:
        """Return why this protocol does not probe; ``None`` when it does."""
        if not self._enabled:
            return f"IP{self.ipv} is disabled on this host"
        if self.config is None:
            return "not configured by the pool"
        if self.config.status not in LIVE:
            return f"status is {self.config.status}"
        return self._context.why_not() or self._batcher.trouble or self.clock.why_not

    @property
    def used(self) -> bool:
        """Return whether this protocol is enabled on this host, and configured by the pool."""
        return self._enabled and self.config is not None

    @property
    def live(self) -> bool:
        """Return whether the pool wants this protocol to probe, and this host allows it."""
        return self._enabled and self.config is not None and self.config.status in LIVE

    def state(self) -> ProtocolState | None:
        """Return the protocol's part of the status message; ``None`` if the pool has not configured it."""
        if self.config is None:
            return None
        reason = self.why_not
        return ProtocolState(
            status=self.config.status,
            probing=reason is None,
            assignments=len(self.assignments),
            assignments_hash=self.assignments.hash,
            why_not=reason,
        )

    def configure(self, config: ProtocolConfig | None) -> None:
        """Apply a configuration; ``None`` stops probing."""
        if config == self.config:
            return
        address = None if config is None else config.nat_ip or config.ip
        if address != self._source.address:
            self._source = Source(address)
        self.config = config
        self._use_clock()
        self.wake()
        self._context.on_change()

    def assign(self, server_id: int, assignment: Assignment | None) -> None:
        """Start or stop probing a server.

        Raises:
            AssignmentRefused: the assignment is invalid; the server is then not assigned.
        """
        refused: AssignmentRefused | None = None
        if assignment is not None:
            try:
                self.assignments.put(server_id, assignment)
                self._schedule.put(server_id, assignment.interval, self._context.clock())
            except AssignmentRefused as error:
                refused, assignment = error, None
        if assignment is None:
            self.assignments.remove(server_id)
            self._schedule.drop(server_id)
        self._wake.set()
        self._context.on_change()
        if refused is not None:
            raise refused

    def forget_assignments(self) -> None:
        """Remove all assignments, since the broker has a new session and sends them again."""
        self.assignments.clear()
        self._schedule.drop_all()
        self._context.on_change()

    def wake(self) -> None:
        """Check again whether to probe."""
        self._wake.set()

    def discard_untrusted(self) -> int:
        """Discard all unreliable results after a clock step, and return their number."""
        self._clock_steps += 1
        discarded = self._batcher.withdraw(self.clock.last_good, self._context.clock())
        discarded += self._silence.start_over()
        self._decided.set()
        current = asyncio.current_task()
        for task in self._probes - {current}:
            task.cancel()
            # A task that has not started has measured nothing; one that has just ended has delivered its result.
            discarded += task in self._measuring
            self._measuring.discard(task)
        self._schedule.rebuild(self._context.watch.wall_ahead, self._context.clock())
        self.clock.recheck()
        self._wake.set()
        return discarded

    async def run(self) -> None:
        """Probe until cancelled; then discard undecided results."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.clock.run(), name=f"clock {self.ipv}")
                tasks.create_task(self._run_schedule(tasks), name=f"pace {self.ipv}")
        finally:
            self._count_unproven(self._silence.forget())

    async def probe(self, server_id: int) -> None:
        """Probe an assigned server now, and pass the result to the batcher."""
        assignment, config = self.assignments.get(server_id), self.config
        if assignment is None or config is None:
            return
        clock_steps = self._clock_steps
        samples = await self._measure(assignment, config)
        self._context.check_for_clock_step()
        if clock_steps != self._clock_steps:
            self._context.counters.probes_discarded += 1
        elif best(samples).ours:
            self._not_sent(best(samples).error)
        else:
            self._trouble.over()
            self._accept_unless_silent(to_result(server_id, assignment.ip, samples), samples)

    async def probe_in_turn(self, server_id: int) -> None:
        """Probe like :meth:`probe`, once a slot is free."""
        async with self._context.slots:
            await self.probe(server_id)

    async def decide(self) -> None:
        """Check the clock now if results wait for that; return once none does."""
        if len(self._silence):
            self.clock.recheck()
        await self._decided.wait()

    async def _probe_safely(self, server_id: int) -> None:
        try:
            await self.probe(server_id)
        except Exception:
            # Errors caused by one server must not stop the probes of all others.
            log.exception("probe of server %d failed", server_id)

    async def _run_schedule(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            self._wake.clear()
            reason = self.why_not
            self._set_probing(probing=reason is None)
            due = self._schedule.next_due()
            now = self._context.clock()
            if reason is not None or due is None:
                await self._wake.wait()
            elif due > now:
                await self._sleep(due - now)
            else:
                await self._begin(tasks)

    async def _begin(self, tasks: asyncio.TaskGroup) -> None:
        """Start one due probe as soon as a slot is free."""
        await self._context.slots.acquire()
        server_id = self._schedule.pop(self._context.clock()) if self.why_not is None else None
        if server_id is None:
            self._context.slots.release()
            return
        task = tasks.create_task(self._probe_safely(server_id))
        self._probes.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, server_id))

    def _ended(self, task: asyncio.Task[None], server_id: int) -> None:
        # Not in the task itself, since a task that is cancelled before its first step never runs.
        self._probes.discard(task)
        self._schedule.done(server_id, self._context.clock())
        self._context.slots.release()
        self._wake.set()

    async def _measure(self, assignment: Assignment, config: ProtocolConfig) -> list[Sample]:
        counters = self._context.counters
        counters.probes += 1
        target = Target(assignment.ip, assignment.port, self.ipv)  # validated when it was assigned
        source = self._source
        was_foreign = source.foreign
        task = asyncio.current_task()
        self._measuring.add(task)
        try:
            samples = await probe(target, source, config.samples)
        except BaseException:
            # It has no result: this agent ends, or we made a mistake. After a clock step, it is counted already.
            counters.probes_discarded += task in self._measuring
            raise
        finally:
            self._measuring.discard(task)
        if source.foreign and not was_foreign:
            log.warning("%s is not an address of this host: the kernel chooses the source address", source.address)
        counters.count_samples(samples)
        return samples

    def _not_sent(self, why: str | None) -> None:
        """Handle a probe that this host could not send: it has no result, and others may fail as well."""
        self._trouble.warning("IP%s: probes fail on this host: %s", self.ipv, why)
        self._context.counters.probes_unsent += 1
        self._context.counters.probes_discarded += 1
        self.clock.check_soon()

    def _accept_unless_silent(self, result: Result, samples: list[Sample]) -> None:
        """Accept a result, unless the host's own network may be down."""
        match self._silence.judge(result, samples, time.time_ns()):
            case Verdict.TRUE:
                self._accept(result)
            case Verdict.OPEN:
                self._count_unproven(self._silence.trim())
                self._decided.clear()
                self.clock.check_soon()
            case Verdict.FALSE:
                self._count_unproven(1)

    def _accept(self, result: Result) -> None:
        self.last_results.appendleft(result)
        self._batcher.add(result, self._context.clock())

    def _count_unproven(self, results: int) -> None:
        self._context.counters.results_unproven += results
        self._context.counters.probes_discarded += results

    def _on_check_answered(self, answered_at: int | None) -> None:
        """Decide about held results after a check has shown whether any server answers."""
        results, unproven = self._silence.checked(answered_at)
        for result in results:
            self._accept(result)
        self._count_unproven(unproven)
        if unproven:
            log.warning("IP%s: no server answered: %d results of silent servers discarded", self.ipv, unproven)
        if len(self._silence):
            self.clock.check_soon()
        else:
            self._decided.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _set_probing(self, *, probing: bool) -> None:
        if probing == self._probing:
            return
        self._probing = probing
        if probing:
            # Probes that became due meanwhile do not all run now, but in their next slots.
            self._schedule.rebuild(self._context.watch.wall_ahead, self._context.clock())
        log.info("IP%s: %s", self.ipv, "probing" if probing else f"not probing: {self.why_not}")
        self._context.on_change()

    def _use_clock(self) -> None:
        config = self.config
        if config is None or not self.live:
            self._count_unproven(self._silence.forget())  # no further check can decide about them
            self._decided.set()
            self.clock.use(None, self._source)
            return
        checks = base_checks(config.base_checks, config.samples, self._context.rules, self.ipv)
        self.clock.use(checks, self._source)

    def _on_verdict(self, verdict: ClockVerdict, checked_at: float, answered_at: int | None) -> None:
        self._on_check_answered(answered_at)
        if verdict.good:
            self._batcher.vouch(checked_at)
        self.wake()
        self._context.on_change()

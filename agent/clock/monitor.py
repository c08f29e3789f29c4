"""Repeat the check of the local clock for one protocol, by querying its base-check servers."""

import asyncio
import logging
from collections.abc import Callable

from agent.clock.check import BaseChecks, check_clock
from agent.clock.verdict import ASKED_NOT_BEFORE, RENEW_AFTER, RETRY_AFTER, VALID_FOR, ClockVerdict
from agent.metrics import AgentCounters
from agent.ntp.probe import Source
from agent.ntp.resolver import Resolver

log = logging.getLogger(__name__)


class LocalClock:
    """Maintain the verdict on the local clock. Run :meth:`run` as a task.

    Args:
        resolver: resolves the names of base-check servers.
        clock: monotonic seconds.
        check_for_clock_step: detects whether the wall clock was set, and calls :meth:`recheck` if so.
        on_verdict: called after every check with its verdict, the time from which it is valid, and the send time of the
            latest answered request (Unix time in nanoseconds; ``None`` if none was answered).
    """

    def __init__(
        self,
        counters: AgentCounters,
        resolver: Resolver,
        clock: Callable[[], float],
        check_for_clock_step: Callable[[], None],
        on_verdict: Callable[[ClockVerdict, float, int | None], None],
    ) -> None:
        self._counters = counters
        self._resolver = resolver
        self._clock = clock
        self._check_for_clock_step = check_for_clock_step
        self._on_verdict = on_verdict
        self._checks: BaseChecks | None = None
        self._source = Source(None)
        self._verdict: ClockVerdict | None = None
        self._checked_at = 0.0
        self.last_good = 0.0
        """The last time at which the clock was known to be good (monotonic seconds)."""
        self._began = 0.0
        self._recheck_now = asyncio.Event()
        self._soon = asyncio.Event()
        self._checked = asyncio.Event()

    def use(self, checks: BaseChecks | None, source: Source) -> None:
        """Use these servers from now on; ``None`` if no check is needed."""
        if checks == self._checks and source is self._source:
            return
        self._checks, self._source = checks, source
        self.recheck()

    def recheck(self) -> None:
        """Invalidate the verdict and check now."""
        self._verdict = None
        self._checked.clear()
        self._recheck_now.set()

    def check_soon(self) -> None:
        """Check earlier than scheduled, since servers do not answer; the verdict stays valid until then."""
        self._soon.set()

    async def checked(self) -> None:
        """Wait for a verdict."""
        await self._checked.wait()

    @property
    def why_not(self) -> str | None:
        """Return why the clock is not known to be good; ``None`` when it is."""
        if self._verdict is None:
            return "local clock is being checked"
        if not self._verdict.good:
            return self._verdict.reason
        if self._clock() - self._checked_at > VALID_FOR:
            return "local clock is being checked again"
        return None

    @property
    def offset(self) -> float | None:
        """Return the offset of the last check in seconds, positive if our clock is behind; ``None`` if unknown."""
        return None if self._verdict is None else self._verdict.offset

    async def run(self) -> None:
        """Check on schedule until cancelled."""
        while True:
            self._recheck_now.clear()
            if self._checks is None:
                await self._recheck_now.wait()
                continue
            recheck = asyncio.create_task(self._recheck_now.wait())
            check = asyncio.create_task(self._check(self._checks, self._source))
            try:
                await asyncio.wait({recheck, check}, return_when=asyncio.FIRST_COMPLETED)
                if check.done():
                    check.result()
                    await self._wait_until_due(recheck)
            finally:
                recheck.cancel()
                check.cancel()

    async def _check(self, checks: BaseChecks, source: Source) -> None:
        began = self._began = self._clock()
        self._soon.clear()
        checked = await check_clock(checks, source, self._counters, self._resolver)
        verdict = checked.verdict
        self._counters.clock_checks += verdict.asked
        self._counters.clock_checks_failed += verdict.asked and not verdict.good
        self._check_for_clock_step()
        if self._recheck_now.is_set():
            return  # the clock was set during the check
        self._log_change(verdict)
        self._verdict, self._checked_at = verdict, self._clock()
        if verdict.good:
            self.last_good = began
        self._checked.set()
        self._on_verdict(verdict, began, checked.answered_at)

    async def _wait_until_due(self, recheck: asyncio.Task[bool]) -> None:
        """Wait until the next check is due, or ``recheck`` is done."""
        soon = asyncio.create_task(self._soon.wait())
        try:
            await asyncio.wait({recheck, soon}, timeout=self._pause(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            soon.cancel()
        if self._soon.is_set():
            await asyncio.wait({recheck}, timeout=max(0.0, self._began + ASKED_NOT_BEFORE - self._clock()))

    def _pause(self) -> float:
        good = self._verdict is not None and self._verdict.good
        return RENEW_AFTER if good else RETRY_AFTER

    def _log_change(self, verdict: ClockVerdict) -> None:
        before = self._verdict
        if not verdict.good and (before is None or before.reason != verdict.reason):
            log.warning("%s", verdict.reason)
        elif verdict.good and (before is None or not before.good):
            log.info("%s", verdict.reason)

"""Keeps the check of the local clock fresh for one protocol, by asking its base-check servers."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from agent.clock_check import RENEW_AFTER, RETRY_AFTER, VALID_FOR, ClockVerdict, judge_clock
from agent.counters import AgentCounters
from agent.exchange import Source
from agent.probe import probe
from agent.sample import to_result
from agent.targets import Target, TargetRefused, TargetRules
from schema.messages import Result
from schema.names import IpVersion

log = logging.getLogger(__name__)

MAX_BASE_CHECKS: Final = 16
"""Servers asked at most, however many are configured."""


class BaseChecks(msgspec.Struct, frozen=True):
    """Whom to ask, and how."""

    targets: tuple[Target, ...] = ()
    refused: tuple[str, ...] = ()
    """Entries that cannot be asked, each with the reason."""
    samples: int = 1


def base_checks(entries: Sequence[str], samples: int, rules: TargetRules, ipv: IpVersion) -> BaseChecks:
    """The configured ``entries``, checked; one that is named twice has one voice."""
    targets: dict[Target, None] = {}
    refused: list[str] = []
    for entry in list(dict.fromkeys(entries))[:MAX_BASE_CHECKS]:
        try:
            targets[rules.parse(entry, ipv)] = None
        except TargetRefused as error:
            refused.append(str(error))
    return BaseChecks(tuple(targets), tuple(refused), samples)


async def check_clock(
    checks: BaseChecks, source: Source, counters: AgentCounters
) -> tuple[ClockVerdict, list[tuple[str, Result]]]:
    """Asks all base-check servers at once; the verdict, and what each of them said."""

    async def ask(target: Target) -> tuple[str, Result]:
        samples = await probe(target, source, checks.samples)
        counters.count_samples(samples)
        return str(target), to_result(0, target.ip, samples)

    results = await asyncio.gather(*map(ask, checks.targets))
    return judge_clock(results, checks.refused), results


class LocalClock:
    """The verdict on our clock. :meth:`run` it as a task.

    Args:
        clock: monotonic seconds.
        look_at_clock: notices whether the wall clock was set, and calls :meth:`recheck` if so.
        on_verdict: called after every check with its verdict and the time from which it counts.
    """

    def __init__(
        self,
        counters: AgentCounters,
        clock: Callable[[], float],
        look_at_clock: Callable[[], None],
        on_verdict: Callable[[ClockVerdict, float], None],
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._look_at_clock = look_at_clock
        self._on_verdict = on_verdict
        self._checks: BaseChecks | None = None
        self._source = Source(None)
        self._verdict: ClockVerdict | None = None
        self._checked_at = 0.0
        self.last_good = 0.0
        """When the clock was last known to be good (monotonic seconds)."""
        self._anew = asyncio.Event()
        self._checked = asyncio.Event()

    def use(self, checks: BaseChecks | None, source: Source) -> None:
        """Asks these servers from now on; None: no check is needed."""
        if checks == self._checks and source is self._source:
            return
        self._checks, self._source = checks, source
        self.recheck()

    def recheck(self) -> None:
        """What was known does not count any longer: checks now."""
        self._verdict = None
        self._checked.clear()
        self._anew.set()

    async def checked(self) -> None:
        """Returns when there is a verdict."""
        await self._checked.wait()

    @property
    def why_not(self) -> str | None:
        """Why the clock is not known to be good; None when it is."""
        if self._verdict is None:
            return "local clock is being checked"
        if not self._verdict.good:
            return self._verdict.reason
        if self._clock() - self._checked_at > VALID_FOR:
            return "local clock is being checked again"
        return None

    async def run(self) -> None:
        """Checks when it is time to, until cancelled."""
        while True:
            self._anew.clear()
            if self._checks is None:
                await self._anew.wait()
                continue
            anew = asyncio.create_task(self._anew.wait())
            check = asyncio.create_task(self._check(self._checks, self._source))
            try:
                await asyncio.wait({anew, check}, return_when=asyncio.FIRST_COMPLETED)
                if check.done():
                    check.result()
                    await asyncio.wait({anew}, timeout=self._pause())
            finally:
                anew.cancel()
                check.cancel()

    async def _check(self, checks: BaseChecks, source: Source) -> None:
        began = self._clock()
        verdict, _ = await check_clock(checks, source, self._counters)
        self._counters.clock_checks += 1
        self._counters.clock_checks_failed += not verdict.good
        self._look_at_clock()
        if self._anew.is_set():
            return  # the clock was set while we asked
        self._say(verdict)
        self._verdict, self._checked_at = verdict, self._clock()
        if verdict.good:
            self.last_good = began
        self._checked.set()
        self._on_verdict(verdict, began)

    def _pause(self) -> float:
        good = self._verdict is not None and self._verdict.good
        return RENEW_AFTER if good else RETRY_AFTER

    def _say(self, verdict: ClockVerdict) -> None:
        before = self._verdict
        if not verdict.good and (before is None or before.reason != verdict.reason):
            log.warning("%s", verdict.reason)
        elif verdict.good and (before is None or not before.good):
            log.info("%s", verdict.reason)

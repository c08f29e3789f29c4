"""The one retry policy: how long to wait between attempts, which errors are worth another one, and what is logged.

An error that passes (a lost connection, a deadlock, a broker that restarts) is waited for, without end; any other one
ends the attempt at once. Who waits says so once when it begins, and once when it works again. Imports nothing but the
standard library, so that agents can use it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_DOUBLINGS: Final = 60
"""More would exceed what a float holds after a night of failures, and no bound is that far away."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds between attempts, which double from the first one up to a bound."""

    first_seconds: float
    longest_seconds: float
    jitter: float = 0.0
    """Share of each delay that is left to chance, so that many who failed together do not come back together."""

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, 1 or more."""
        delay = self.first_seconds * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
        return min(delay, self.longest_seconds) * random.uniform(1.0 - self.jitter, 1.0)


@dataclass(frozen=True, slots=True)
class Setback:
    """An error that passes."""

    reason: str
    """What went wrong, for the log and ``/healthz``: without secrets, statements and their values."""
    outlook: str = "waiting for it"


Judge = Callable[[Exception], Setback | None]
"""Decides on an error: it passes, or (None) it is raised as it is. It may also raise another one in its place."""


class Outage:
    """Who waits for something that is away, and since when; logs when that begins and when it is over.

    Something may work for some and fail for others, like a database whose disk is full. So who failed is failing until
    it succeeded itself, whatever others find. Each reason is logged once a minute at most, however many wait.
    """

    LOG_AGAIN_SECONDS: Final = 60.0

    def __init__(self, subject: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._subject = subject
        self._monotonic = monotonic
        self._failing: dict[object, tuple[float, str]] = {}
        self._away_since: float | None = None
        self._logged: dict[str, float] = {}

    def failed(self, who: object, setback: Setback) -> None:
        """``who`` could not do its work; it will try again."""
        now = self._monotonic()
        since = self._failing.get(who, (now, ""))[0]
        self._failing[who] = since, setback.reason
        if self._away_since is None:
            self._away_since = since
        self._log(f"{self._subject}: {setback.reason}; {setback.outlook}", now)

    def succeeded(self, who: object) -> None:
        """``who`` did its work. The first one that finds it back says so."""
        if who in self._failing and self._away_since is not None:
            log.info("%s: works again, after %.0f s", self._subject, self._monotonic() - self._away_since)
            self._away_since = None
        self.gave_up(who)

    def gave_up(self, who: object) -> None:
        """``who`` tries no longer, for whatever reason."""
        self._failing.pop(who, None)
        if not self._failing:
            self._logged.clear()

    def longest(self) -> tuple[float, str] | None:
        """For how many seconds somebody has been failing, and why; None when nobody is. Any thread may ask."""
        failing = list(self._failing.values())
        if not failing:
            return None
        since, reason = min(failing)
        return max(0.0, self._monotonic() - since), reason

    def _log(self, line: str, now: float) -> None:
        self._logged = {said: at for said, at in self._logged.items() if now - at < self.LOG_AGAIN_SECONDS}
        if line not in self._logged:
            self._logged[line] = now
            log.warning("%s", line)


async def until_done(attempt: Callable[[], Awaitable[T]], judge: Judge, delays: Delays, outage: Outage) -> T:
    """Runs ``attempt`` until it succeeds, and returns its result.

    Raises:
        Exception: the first error that ``judge`` does not let pass.
    """
    failures, who = 0, object()
    try:
        while True:
            try:
                result = await attempt()
            except Exception as error:
                setback = judge(error)
                if setback is None:
                    raise
                outage.failed(who, setback)
            else:
                outage.succeeded(who)
                return result
            failures += 1
            await asyncio.sleep(delays.after(failures))
    finally:
        outage.gave_up(who)

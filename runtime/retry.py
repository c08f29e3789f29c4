"""Implement the retry policy of all processes: delays between attempts, retryable errors, and log messages.

Temporary errors (a lost connection, a deadlock, a restart of the broker) are retried without limit; all others are
raised at once. An outage is logged once at its beginning and once at its end. The module imports only the standard
library, so that agents can use it.
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
"""Maximum doublings, since more would exceed the range of a float after a night of failures."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Delays between attempts in seconds, which double from the first one up to a maximum."""

    first_seconds: float
    longest_seconds: float
    jitter: float = 0.0
    """Random share of each delay, so that processes that failed together do not retry together."""

    def after(self, failures: int) -> float:
        """Return the seconds to wait after so many consecutive failures, 1 or more."""
        delay = self.first_seconds * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
        return min(delay, self.longest_seconds) * random.uniform(1.0 - self.jitter, 1.0)


@dataclass(frozen=True, slots=True)
class Setback:
    """A temporary error."""

    reason: str
    """Description for the log and ``/healthz``, without secrets, statements and their values."""
    outlook: str = "waiting for it"


Judge = Callable[[Exception], Setback | None]
"""Function that classifies an error: temporary, or (None) to be raised. It may also raise a different one."""


class Outage:
    """State of an outage: the callers that wait for a dependency, and since when. Logs its beginning and end.

    A dependency may work for some callers and fail for others, such as a database with a full disk. So a caller counts
    as failing until it has succeeded itself. Each reason is logged at most once per minute for all callers.
    """

    LOG_AGAIN_SECONDS: Final = 60.0

    def __init__(self, subject: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._subject = subject
        self._monotonic = monotonic
        self._failing: dict[object, tuple[float, str]] = {}
        self._away_since: float | None = None
        self._logged: dict[str, float] = {}

    def failed(self, who: object, setback: Setback) -> None:
        """Record that ``who`` has failed and will retry."""
        now = self._monotonic()
        since = self._failing.get(who, (now, ""))[0]
        self._failing[who] = since, setback.reason
        if self._away_since is None:
            self._away_since = since
        self._log(f"{self._subject}: {setback.reason}; {setback.outlook}", now)

    def succeeded(self, who: object) -> None:
        """Record that ``who`` has succeeded. The first caller that recovers logs the end of the outage."""
        if who in self._failing and self._away_since is not None:
            log.info("%s: works again, after %.0f s", self._subject, self._monotonic() - self._away_since)
            self._away_since = None
        self.gave_up(who)

    def gave_up(self, who: object) -> None:
        """Record that ``who`` has stopped retrying."""
        self._failing.pop(who, None)
        if not self._failing:
            self._logged.clear()

    def longest(self) -> tuple[float, str] | None:
        """Return the longest lasting failure's duration in seconds and reason; None if there is none. Thread-safe."""
        failing = list(self._failing.values())
        if not failing:
            return None
        since, reason = min(failing)
        return max(0.0, self._monotonic() - since), reason

    def _log(self, line: str, now: float) -> None:
        self._logged = {logged: at for logged, at in self._logged.items() if now - at < self.LOG_AGAIN_SECONDS}
        if line not in self._logged:
            self._logged[line] = now
            log.warning("%s", line)


async def until_done(attempt: Callable[[], Awaitable[T]], judge: Judge, delays: Delays, outage: Outage) -> T:
    """Run ``attempt`` until it succeeds, and return its result.

    Raises:
        Exception: the first error that ``judge`` does not classify as temporary.
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

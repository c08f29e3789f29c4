"""Decide whether this host's clock is trusted, by comparison with the database's clock and the monotonic clock.

A worker writes times with all rows, and retention removes old rows: a host with a wrong clock would empty the ledger
within minutes, or reject every result for its time. If two clocks differ, it is unknown which one is right, so neither
is trusted, and the worker waits until they agree. A database on the same host has the same clock, and SQLite has none;
there the majority of agents decides (:meth:`Clock.record_agent`). On SQLite, a clock that was set while the worker ran
is doubted for a while (:data:`SETTLING`), and then trusted.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median_low
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.log import OngoingWarning

log = logging.getLogger(__name__)

APART: Final = 5.0
"""Maximum difference in seconds between clocks that agree: far more than between clocks synchronised by NTP, far less
than the minute by which a result may be ahead."""

COMPARE_EVERY: Final = 5.0
"""Seconds between two comparisons."""

SETTLING: Final = 300.0
"""Seconds for which a clock is doubted after it was set, if there is no other clock."""

APART_FROM_AGENTS: Final = 30.0
"""Maximum difference in seconds from most agents' clocks; it includes the delay of their messages."""

_FEWEST_AGENTS: Final = 3
"""Minimum number of agents: the median decides, so that no single agent does."""

_VALID_FOR: Final = 900.0
"""Seconds for which an agent's time counts: three times the interval of its messages."""

_MOST_AGENTS: Final = 10_000
"""Maximum agents in memory."""

_LOOK_AGAIN: Final = 0.5
"""Seconds between two checks while waiting for the clock."""


class ClockDoubted(Exception):
    """The clock is not trusted now; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of this host's clock with the database's."""

    ahead: float
    """Seconds by which ours is ahead, if the database answered in the middle of the round trip."""
    margin: float
    """Half of the round trip, the maximum error of the comparison."""
    base: float
    """Our time minus the monotonic clock's at the comparison; it changes if our clock is set."""

    @property
    def agree(self) -> bool | None:
        """Return whether the two are within :data:`APART`; None if the round trip was too long to decide."""
        if abs(self.ahead) + self.margin <= APART:
            return True
        return False if abs(self.ahead) - self.margin > APART else None


_THEIR_TIME: Final = sa.text("SELECT UTC_TIMESTAMP(6)")


class Clock:
    """Verdict on the host's clock, from the last comparison, and from steps of the clock since.

    It is trusted until the first comparison; callers that depend on a comparison wait for it.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._base = wall() - monotonic()
        self._apart: str | None = None
        self._doubted_until = monotonic()
        self._reported: dict[str, tuple[float, float]] = {}
        """By agent: the monotonic time of its message, and the seconds by which our clock is ahead of its."""
        self._ahead_of_agents = 0.0
        self._warning = OngoingWarning(log)
        self.ahead = 0.0
        """Its lead over the database's clock at the last comparison, in seconds."""

    @property
    def doubt(self) -> str | None:
        """Return why the clock is not trusted; None when it is."""
        if self._apart is not None:
            return self._apart
        if abs(moved := self._moved()) > APART:
            return f"this host's clock was set by {moved:+.0f} s"
        if abs(ahead := self._ahead_of_agents) > APART_FROM_AGENTS:
            return f"this host's clock and those of most agents differ by about {abs(ahead):.0f} s"
        left = self._doubted_until - self._monotonic()
        return (
            f"this host's clock was set, and there is no other one to compare; {left:.0f} s left" if left > 0 else None
        )

    @property
    def trusted(self) -> bool:
        """Return whether the clock is trusted."""
        return self.doubt is None

    def now(self) -> datetime:
        """Return the current time in the database's form: naive UTC.

        Raises:
            ClockDoubted: the time must not be stored.
        """
        if (doubt := self.doubt) is not None:
            raise ClockDoubted(doubt)
        return datetime.fromtimestamp(self._wall(), UTC).replace(tzinfo=None)

    async def agreed(self) -> None:
        """Wait until the clock is trusted."""
        while not self.trusted:  # noqa: ASYNC110  # no event signals that a clock is right
            await asyncio.sleep(_LOOK_AGAIN)

    def compare(self, connection: Connection) -> Comparison | None:
        """Compare with the database's time; None if it has no clock of its own. For :meth:`note`. Thread-safe."""
        if connection.dialect.name == "sqlite":
            return None
        began, ours = self._monotonic(), self._wall()
        theirs: datetime = connection.scalar(_THEIR_TIME)
        trip = self._monotonic() - began
        return Comparison(ours + trip / 2 - theirs.replace(tzinfo=UTC).timestamp(), trip / 2, ours - began)

    def note(self, found: Comparison | None) -> None:
        """Record a comparison; without one, only check whether the clock was set."""
        if found is None:
            self._note_alone()
        else:
            self._note_beside(found)
        self._log_change()

    def record_agent(self, agent: str, ahead: float) -> None:
        """Record that our clock is ``ahead`` seconds ahead of the clock of ``agent``.

        Agents check their clocks against several servers before they measure. So if the database runs on this host, or
        has no clock, they serve as a reference.
        """
        now = self._monotonic()
        if agent in self._reported or len(self._reported) < _MOST_AGENTS:
            self._reported[agent] = now, ahead
        self._reported = {name: one for name, one in self._reported.items() if now - one[0] <= _VALID_FOR}
        differences = [seconds for _, seconds in self._reported.values()]
        self._ahead_of_agents = median_low(differences) if len(differences) >= _FEWEST_AGENTS else 0.0

    def _forget_agents(self) -> None:
        """Discard the agents' times, which refer to the clock before it was set."""
        self._reported = {}
        self._ahead_of_agents = 0.0

    def _note_beside(self, found: Comparison) -> None:
        self.ahead = found.ahead
        agree = found.agree
        if agree is None:
            return  # the answer was too slow to decide; the last verdict holds
        self._apart = (
            None
            if agree
            else (
                f"this host's clock and the database's differ by {abs(found.ahead):.0f} s, this one is "
                f"{'ahead' if found.ahead > 0 else 'behind'}"
            )
        )
        if agree:
            if abs(found.base - self._base) > APART:
                self._forget_agents()
            self._base = found.base  # not the current value, since the clock may have been set meanwhile

    def _note_alone(self) -> None:
        moved = self._moved()
        self._base += moved  # including the drift of a clock that is slewed
        if abs(moved) > APART:
            self._forget_agents()
            self._doubted_until = self._monotonic() + SETTLING

    def _moved(self) -> float:
        """Return the seconds by which the clock was set since the last good comparison."""
        return self._wall() - self._monotonic() - self._base

    def _log_change(self) -> None:
        doubt = self.doubt
        if doubt is not None:
            self._warning.warning("clock: %s: nothing is judged by its time until this is resolved", doubt)
        elif self._warning.lasting:
            self._warning.over()
            log.info("clock: trusted again")

"""Whether this host's clock may be trusted: it is compared with the database's, and with itself.

All that a worker writes has a time, and retention removes what is old: a host whose clock is wrong would empty the
ledger within minutes, or refuse every result for its time. Of two clocks that differ nobody knows which one is right,
so neither is trusted: the worker waits until they agree. A database on the same host has the same clock, and SQLite
none: there the agents tell, who are many (:meth:`Clock.hear`), and a clock that was set while the worker ran on SQLite
is doubted for a while (:data:`SETTLING`), and then taken as it is.
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
"""Seconds by which two clocks may differ and still be taken for the same: far more than clocks that are kept by NTP
differ, far less than the minute by which a result may be ahead."""

COMPARE_EVERY: Final = 5.0
"""Seconds between two comparisons."""

SETTLING: Final = 300.0
"""Seconds for which a clock is doubted that was set, where there is no other one to ask."""

APART_FROM_AGENTS: Final = 30.0
"""Seconds by which most agents' clocks may differ from ours: their messages take their time."""

_WITNESSES: Final = 3
"""Agents whose word counts, at least: the one in the middle decides, so that no single one does."""

_HEARD_WITHIN: Final = 900.0
"""Seconds for which it is remembered what an agent said: three times the pause between two of its messages."""

_MOST_HEARD: Final = 10_000
"""Agents that are remembered."""

_LOOK_AGAIN: Final = 0.5
"""Seconds between two looks of those who wait for the clock."""


class ClockDoubted(Exception):
    """The clock is not trusted now; the message says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """This host's clock beside the database's."""

    ahead: float
    """Seconds that ours is ahead, as if the database had answered in the middle of the round trip."""
    margin: float
    """Half of the round trip: the answer is as good as this."""
    base: float
    """Our time less the monotonic clock's at the comparison: whoever sets our clock changes it."""

    @property
    def agree(self) -> bool | None:
        """Whether the two are within :data:`APART`; None when the round trip took too long to tell."""
        if abs(self.ahead) + self.margin <= APART:
            return True
        return False if abs(self.ahead) - self.margin > APART else None


_THEIR_TIME: Final = sa.text("SELECT UTC_TIMESTAMP(6)")


class Clock:
    """The verdict on the host's clock, as of the last comparison, and at once when it is set.

    Until the first comparison it is trusted: those who must not begin without one wait for it.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._base = wall() - monotonic()
        self._apart: str | None = None
        self._doubted_until = monotonic()
        self._heard: dict[str, tuple[float, float]] = {}
        """By agent: when it was heard, and what it made of our clock."""
        self._ahead_of_agents = 0.0
        self._warning = OngoingWarning(log)
        self.ahead = 0.0
        """Seconds that it was ahead of the database's at the last comparison."""

    @property
    def doubt(self) -> str | None:
        """Why the clock is not trusted; None when it is."""
        if self._apart is not None:
            return self._apart
        if abs(moved := self._moved()) > APART:
            return f"this host's clock was set by {moved:+.0f} s"
        if abs(ahead := self._ahead_of_agents) > APART_FROM_AGENTS:
            return f"this host's clock and those of most agents differ by about {abs(ahead):.0f} s"
        left = self._doubted_until - self._monotonic()
        return (
            f"this host's clock was set, and nothing tells which time is right; {left:.0f} s left" if left > 0 else None
        )

    @property
    def trusted(self) -> bool:
        """Whether times may be judged by it."""
        return self.doubt is None

    def now(self) -> datetime:
        """Now, as the database has it: UTC without a zone.

        Raises:
            ClockDoubted: nobody should write this down.
        """
        if (doubt := self.doubt) is not None:
            raise ClockDoubted(doubt)
        return datetime.fromtimestamp(self._wall(), UTC).replace(tzinfo=None)

    async def agreed(self) -> None:
        """Returns when the clock is trusted."""
        while not self.trusted:  # noqa: ASYNC110  # it is a clock: nobody tells when it is right
            await asyncio.sleep(_LOOK_AGAIN)

    def compare(self, connection: Connection) -> Comparison | None:
        """Asks the database for its time; None when it has none of its own. For :meth:`note`, from any thread."""
        if connection.dialect.name == "sqlite":
            return None
        began, ours = self._monotonic(), self._wall()
        theirs: datetime = connection.scalar(_THEIR_TIME)
        trip = self._monotonic() - began
        return Comparison(ours + trip / 2 - theirs.replace(tzinfo=UTC).timestamp(), trip / 2, ours - began)

    def note(self, found: Comparison | None) -> None:
        """Takes a comparison; without one, only whether the clock was set counts."""
        if found is None:
            self._note_alone()
        else:
            self._note_beside(found)
        self._tell()

    def hear(self, agent: str, ahead: float) -> None:
        """Takes what the clock of ``agent`` makes of ours, which is ``ahead`` seconds ahead of it.

        Agents compare their clocks with several servers before they measure. So where the database runs on this host,
        or has no clock, they are those who can tell.
        """
        now = self._monotonic()
        if agent in self._heard or len(self._heard) < _MOST_HEARD:
            self._heard[agent] = now, ahead
        self._heard = {name: said for name, said in self._heard.items() if now - said[0] <= _HEARD_WITHIN}
        told = [said for _, said in self._heard.values()]
        self._ahead_of_agents = median_low(told) if len(told) >= _WITNESSES else 0.0

    def _forget_agents(self) -> None:
        """They spoke of a clock that was set since."""
        self._heard = {}
        self._ahead_of_agents = 0.0

    def _note_beside(self, found: Comparison) -> None:
        self.ahead = found.ahead
        agree = found.agree
        if agree is None:
            return  # a slow answer tells nothing, what was known holds
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
            self._base = found.base  # and not as it is now: it may have been set meanwhile

    def _note_alone(self) -> None:
        moved = self._moved()
        self._base += moved  # also what a clock that is being adjusted slowly gains
        if abs(moved) > APART:
            self._forget_agents()
            self._doubted_until = self._monotonic() + SETTLING

    def _moved(self) -> float:
        """Seconds by which the clock was set since the last comparison in which it was right."""
        return self._wall() - self._monotonic() - self._base

    def _tell(self) -> None:
        doubt = self.doubt
        if doubt is not None:
            self._warning.warning("clock: %s: nothing is judged by its time until that is over", doubt)
        elif self._warning.lasting:
            self._warning.over()
            log.info("clock: trusted again")

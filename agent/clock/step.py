"""Detect steps of the wall clock by comparison with the monotonic clock."""

import time
from collections.abc import Callable
from typing import Final

STEP: Final = 0.050
"""Seconds of difference that count as a step. Slewing moves both clocks, so only a step or a suspended host causes
this."""

_TIGHT: Final = 0.001
"""Maximum seconds for reading both clocks; longer means that we were interrupted between them."""

Clocks = tuple[float, float]
"""Wall clock (seconds of Unix time) and monotonic clock, read at the same moment."""


def read_clocks(attempts: int = 5) -> Clocks:
    """Return both clocks, from the least interrupted of several attempts."""
    best: tuple[float, Clocks] | None = None
    for _ in range(attempts):
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        if best is None or after - before < best[0]:
            best = after - before, (wall, (before + after) / 2)
        if after - before < _TIGHT:
            break
    assert best is not None
    return best[1]


class ClockWatch:
    """Compare the difference of the two clocks with its previous value."""

    def __init__(self, read: Callable[[], Clocks] = read_clocks) -> None:
        self._read = read
        wall, monotonic = read()
        self.wall_ahead = wall - monotonic
        """Wall clock minus monotonic clock, as of the last step."""

    def step(self) -> float | None:
        """Return the seconds by which the wall clock was set since the last call (positive: forward), or ``None``.

        A step is reported once. Small differences accumulate until they amount to a step.
        """
        wall, monotonic = self._read()
        moved = wall - monotonic - self.wall_ahead
        if abs(moved) <= STEP:
            return None
        self.wall_ahead = wall - monotonic
        return moved

"""Notices that the wall clock was set: it and the monotonic clock then part."""

import time
from collections.abc import Callable
from typing import Final

STEP: Final = 0.050
"""Seconds by which the clocks must part. Slewing moves both, so only a step, or a suspended host, gets here."""

_TIGHT: Final = 0.001
"""Seconds that reading both clocks may take; longer means that we were interrupted between them."""

Clocks = tuple[float, float]
"""Wall clock (seconds of Unix time) and monotonic clock, read at the same moment."""


def read_clocks(attempts: int = 5) -> Clocks:
    """Both clocks, of several attempts the one that was interrupted least."""
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
    """Compares the two clocks with how they stood before."""

    def __init__(self, read: Callable[[], Clocks] = read_clocks) -> None:
        self._read = read
        wall, monotonic = read()
        self.wall_ahead = wall - monotonic
        """Wall clock minus monotonic clock, as of the last step."""

    def step(self) -> float | None:
        """Seconds by which the wall clock was set since the last call (positive: forward), or None.

        A step is reported once. Small differences add up until they are one.
        """
        wall, monotonic = self._read()
        moved = wall - monotonic - self.wall_ahead
        if abs(moved) <= STEP:
            return None
        self.wall_ahead = wall - monotonic
        return moved

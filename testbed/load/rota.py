"""Order a simulated monitor's measurements: each server at its interval, spread evenly."""

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from agent.schedule import phase
from testbed.load.spec import Target


class Turn(NamedTuple):
    """A due measurement."""

    target: Target
    at: float
    """Seconds of the rota's clock, which begins at 0."""


class Rota:
    """The targets of one monitor, at the phases that an agent would compute.

    The phases keep monitors from measuring the same servers at the same time, an unrealistically easy load. The clock
    advances with the measurements taken: faster callers make it run faster.
    """

    def __init__(self, targets: Iterable[Target] = (), *, monitor: int = 0) -> None:
        self._monitor = monitor
        self._targets: dict[int, Target] = {}
        self._heap: list[tuple[float, int]] = []
        self._queued: set[int] = set()
        self._now = 0.0
        for target in targets:
            self.add(target)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def pace(self) -> float:
        """Results per second at these intervals."""
        return sum(1.0 / target.interval for target in self._targets.values())

    def targets(self) -> list[Target]:
        """All targets."""
        return list(self._targets.values())

    def add(self, target: Target) -> None:
        """Add a target, or change its interval."""
        self._targets[target.server_id] = target
        if target.server_id not in self._queued:
            wait = phase(target.server_id, self._monitor) * target.interval
            heapq.heappush(self._heap, (self._now + wait, target.server_id))
            self._queued.add(target.server_id)

    def remove(self, server_id: int) -> None:
        """Remove a target."""
        # Its entry in the queue is dropped when it is due.
        self._targets.pop(server_id, None)

    def clear(self) -> None:
        """Remove all targets."""
        self._targets.clear()
        self._heap.clear()
        self._queued.clear()

    def take(self, count: int) -> list[Turn]:
        """Take the next ``count`` due measurements; fewer if no more are due."""
        taken: list[Turn] = []
        while len(taken) < count and self._heap:
            due, server_id = self._heap[0]
            target = self._targets.get(server_id)
            if target is None:
                heapq.heappop(self._heap)
                self._queued.discard(server_id)
                continue
            self._now = due
            heapq.heapreplace(self._heap, (due + target.interval, server_id))
            taken.append(Turn(target, due))
        return taken

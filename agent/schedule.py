"""Schedule the probes of each server: a heap of due times, which are computed and never random.

A server is probed once in every interval, at a phase that depends only on server and monitor, shifted by up to 5 % of
the interval. The slots refer to the wall clock, so that monitors do not probe at the same instant, whenever they were
started, and a restarted monitor neither probes twice nor leaves a gap. The timers are monotonic. Pure: every method
receives the time as an argument.
"""

import hashlib
import heapq
from math import floor
from typing import Final

import msgspec

_TWO_64: Final = 1 << 64
_GOLDEN: Final = 0x9E3779B97F4A7C15
"""2⁶⁴ / φ: its multiples are spread most evenly over a circle of 2⁶⁴ (Knuth, TAOCP volume 3, section 6.4)."""

JITTER: Final = 0.05
"""Maximum shift of a slot in either direction, as a fraction of the interval."""

_REMEMBERED: Final = 5_000
"""Number of unassigned servers whose last probe is remembered, in case they are assigned again."""


def monitor_number(name: str) -> int:
    """Return a 64-bit number for a monitor that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def phase(server_id: int, monitor: int) -> float:
    """Return the phase at which a monitor probes a server: 0 ≤ phase < 1."""
    turns = _mix(server_id) + _GOLDEN * monitor
    return (turns % _TWO_64 >> 11) / (1 << 53)


def slot(number: int, interval: float, server_id: int, monitor: int) -> float:
    """Return the wall-clock time of the ``number``-th slot, in seconds of Unix time."""
    jitter = (_mix(_mix(server_id) ^ monitor ^ number) / _TWO_64 * 2 - 1) * JITTER
    return (number + phase(server_id, monitor) + jitter) * interval


def first_slot(not_before: float, interval: float, server_id: int, monitor: int) -> float:
    """Return the first slot at or after ``not_before``, both in seconds of Unix time."""
    number = floor(not_before / interval - phase(server_id, monitor)) - 1
    while (at := slot(number, interval, server_id, monitor)) < not_before:
        number += 1
    return at


def _mix(value: int) -> int:
    """Return a 64-bit number in which every bit depends on every bit of ``value`` (the finaliser of SplitMix64)."""
    value = (value + _GOLDEN) % _TWO_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % _TWO_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % _TWO_64
    return value ^ (value >> 31)


class _Pair(msgspec.Struct, gc=False):
    interval: float
    due: float
    """Monotonic time of the next probe; infinity while one is running."""


class Schedule:
    """Schedule the probes of one monitor over one protocol. Times are monotonic seconds."""

    def __init__(self, monitor: int, wall_ahead: float) -> None:
        """Create a schedule; ``wall_ahead`` is the wall clock minus the monotonic clock."""
        self._monitor = monitor
        self._wall_ahead = wall_ahead
        self._pairs: dict[int, _Pair] = {}
        self._heap: list[tuple[float, int]] = []
        self._last: dict[int, float] = {}
        self._running: set[int] = set()

    def __len__(self) -> int:
        return len(self._pairs)

    def put(self, server_id: int, interval: float, now: float) -> None:
        """Probe this server at this interval (seconds); do nothing if it is unchanged."""
        pair = self._pairs.get(server_id)
        if pair is None:
            pair = self._pairs[server_id] = _Pair(interval, float("inf"))
        elif pair.interval == interval:
            return
        pair.interval = interval
        self._plan(server_id, pair, now)

    def drop(self, server_id: int) -> None:
        """Stop probing this server. A running probe is completed."""
        if self._pairs.pop(server_id, None) is not None:
            self._forget_oldest()

    def drop_all(self) -> None:
        """Stop probing all servers."""
        self._pairs.clear()
        self._heap.clear()
        self._forget_oldest()

    def next_due(self) -> float | None:
        """Return when the next probe is due; ``None`` if none is scheduled."""
        while self._heap:
            due, server_id = self._heap[0]
            pair = self._pairs.get(server_id)
            if pair is not None and pair.due == due:
                return due
            heapq.heappop(self._heap)  # dropped, or rescheduled since
        return None

    def pop(self, now: float) -> int | None:
        """Return the server that has been due longest and mark it as running until :meth:`done`; ``None`` if none is
        due."""
        due = self.next_due()
        if due is None or due > now:
            return None
        server_id = heapq.heappop(self._heap)[1]
        self._pairs[server_id].due = float("inf")
        self._running.add(server_id)
        self._remember(server_id, now)
        return server_id

    def done(self, server_id: int, now: float) -> None:
        """Reschedule a server after its probe has ended."""
        self._running.discard(server_id)
        pair = self._pairs.get(server_id)
        if pair is not None:
            self._plan(server_id, pair, now)

    def rebuild(self, wall_ahead: float, now: float) -> None:
        """Recompute all slots after a step of the wall clock."""
        self._wall_ahead = wall_ahead
        self._heap.clear()
        for server_id, pair in self._pairs.items():
            self._plan(server_id, pair, now)

    def _plan(self, server_id: int, pair: _Pair, now: float) -> None:
        if server_id in self._running:
            return  # rescheduled when it is done, so that probes of a pair never overlap
        last = self._last.get(server_id)
        earliest = now if last is None else max(now, last + pair.interval / 2)
        at = first_slot(earliest + self._wall_ahead, pair.interval, server_id, self._monitor)
        pair.due = max(earliest, at - self._wall_ahead)
        heapq.heappush(self._heap, (pair.due, server_id))
        if len(self._heap) > 64 + 2 * len(self._pairs):
            self._heap = [(p.due, i) for i, p in self._pairs.items() if i not in self._running]
            heapq.heapify(self._heap)

    def _remember(self, server_id: int, now: float) -> None:
        self._last.pop(server_id, None)  # a dict keeps the order of insertion: the oldest comes first
        self._last[server_id] = now

    def _forget_oldest(self) -> None:
        while len(self._last) > len(self._pairs) + _REMEMBERED:
            del self._last[next(iter(self._last))]

"""Count what each monitor measured in an hour, compared with what others measured of the same servers then. Pure.

A lost packet may be the server's fault, and so may an offset. So a loss counts only at a server that other monitors
reached in the same hour, and the clock is compared with theirs: a server that is wrong is wrong for all of them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import Final, NamedTuple

OTHERS: Final = 3
"""Minimum number of other monitors with which one is compared at a server; with fewer, a single bad one decides."""

REACHED: Final = 0.9
"""Minimum share of the others' probes that were answered for a server to count as reached in an hour."""

NEAREST: Final = 10
"""Nearest servers whose rtt is kept. Every region of the pool has as many, and one unusual server does not matter."""


class PairHour(NamedTuple):
    """The results of a pair in an hour. ``lost`` probes had no answer; averages are None without an answer."""

    server_id: int
    monitor_id: int
    probes: int
    lost: int
    offset: float | None
    """Average, in seconds; positive if the server is ahead of the monitor."""
    rtt_us: float | None
    """Average, in microseconds."""


class MonitorHour(NamedTuple):
    """The results of a monitor in an hour, by the names of the columns of ``monitor_hours``, which explains them."""

    monitor_id: int
    servers: int
    probes: int
    judged: int
    lost: int
    expected_lost: float
    clock_offset: float | None
    clock_servers: int
    nearest_rtt: float | None


@dataclass(slots=True)
class _Sum:
    """What one monitor has measured so far."""

    servers: int = 0
    probes: int = 0
    judged: int = 0
    lost: int = 0
    expected_lost: float = 0.0
    offsets: list[float] = field(default_factory=list)
    """Its offset minus the others', for each server."""
    rtts: list[float] = field(default_factory=list)


class HourCount:
    """Count of one hour, to which the pairs are added some servers at a time.

    Args:
        monitors: the monitors to count; rows of others (scorers, pseudo-monitors) are ignored.
    """

    def __init__(self, monitors: Collection[int]) -> None:
        self._monitors = frozenset(monitors)
        self._sums: dict[int, _Sum] = {}

    def add(self, pairs: Iterable[PairHour]) -> None:
        """Add all pairs of some servers, in any order."""
        of_monitors = [pair for pair in pairs if pair.monitor_id in self._monitors]
        of_monitors.sort(key=attrgetter("server_id"))
        for _, of_server in groupby(of_monitors, key=attrgetter("server_id")):
            self._add_server(list(of_server))

    def _add_server(self, pairs: Sequence[PairHour]) -> None:
        for pair in pairs:
            found = self._sums.setdefault(pair.monitor_id, _Sum())
            found.servers += 1
            found.probes += pair.probes
            if pair.rtt_us is not None:
                found.rtts.append(pair.rtt_us * 1e-6)
        if len(pairs) <= OTHERS:
            return
        self._compare_losses(pairs)
        offsets = {pair.monitor_id: pair.offset for pair in pairs if pair.offset is not None}
        if len(offsets) > OTHERS:
            self._compare_offsets(offsets)

    def _compare_losses(self, pairs: Sequence[PairHour]) -> None:
        all_probes, all_lost = sum(pair.probes for pair in pairs), sum(pair.lost for pair in pairs)
        for pair in pairs:
            others, lost = all_probes - pair.probes, all_lost - pair.lost
            if others - lost >= REACHED * others:
                found = self._sums[pair.monitor_id]
                found.judged += pair.probes
                found.lost += pair.lost
                found.expected_lost += pair.probes * lost / others

    def _compare_offsets(self, offsets: Mapping[int, float]) -> None:
        others = medians_of_others(list(offsets.values()))
        for (monitor_id, offset), of_others in zip(offsets.items(), others, strict=True):
            # The monitor's clock is ahead if the server seems to be behind.
            self._sums[monitor_id].offsets.append(of_others - offset)

    def result(self) -> list[MonitorHour]:
        """Return the hour of each monitor that has results, by id."""
        return [_hour(monitor_id, found) for monitor_id, found in sorted(self._sums.items())]


def _hour(monitor_id: int, found: _Sum) -> MonitorHour:
    return MonitorHour(
        monitor_id=monitor_id,
        servers=found.servers,
        probes=found.probes,
        judged=found.judged,
        lost=found.lost,
        expected_lost=found.expected_lost,
        clock_offset=median(found.offsets) if found.offsets else None,
        clock_servers=len(found.offsets),
        nearest_rtt=median(nsmallest(NEAREST, found.rtts)) if len(found.rtts) >= NEAREST else None,
    )


def medians_of_others(values: Sequence[float]) -> list[float]:
    """Return for each of at least two values the median of all others.

    The values are sorted once: without the value at position ``i``, those after it move by one.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [values[index] for index in order]
    low, high = (len(values) - 2) // 2, (len(values) - 1) // 2
    medians = [0.0] * len(values)
    for position, index in enumerate(order):
        first = ranked[low if low < position else low + 1]
        second = ranked[high if high < position else high + 1]
        medians[index] = (first + second) / 2
    return medians

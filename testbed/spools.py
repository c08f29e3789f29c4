"""Read the agents' spools from their directories."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.delivery.spool import Spool
from agent.state import StateDirectory
from schema.names import IP_VERSIONS
from testbed.checker.replay import BatchKey

_NO_BOUND: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Spooled:
    """The contents of the agents' spools at the end."""

    waiting: Mapping[BatchKey, int] = field(default_factory=dict)
    """Results in batches that are still in a spool: late, but not lost."""
    dropped: Mapping[int, int] = field(default_factory=dict)
    """Results that an agent dropped, by monitor."""
    set_aside: int = 0
    """Batches that ingest refused, or that could not be read."""


def is_empty(directory: StateDirectory) -> bool:
    """Return whether no batch is waiting; also valid while the agent runs."""
    for ipv in IP_VERSIONS:
        spool = directory.spool / ipv
        if spool.is_dir() and any(path.name.isdigit() for path in spool.iterdir()):
            return False
    return True


def read_spools(directories: Mapping[int, StateDirectory]) -> Spooled:
    """Read the spools of these monitors (by id), after their agents have ended."""
    waiting: dict[BatchKey, int] = {}
    dropped: dict[int, int] = {}
    set_aside = 0
    for monitor_id, directory in directories.items():
        for spool in _spools(directory):
            dropped[monitor_id] = dropped.get(monitor_id, 0) + spool.counters.dropped_results
            set_aside += spool.counters.set_aside + spool.counters.torn
            for number in list(spool):
                if (batch := spool.read(number)) is not None:
                    waiting[monitor_id, batch.id] = batch.results
    return Spooled(waiting, dropped, set_aside)


def _spools(directory: StateDirectory) -> Iterable[Spool]:
    for ipv in IP_VERSIONS:
        if (directory.spool / ipv).is_dir():
            yield Spool(directory.spool / ipv, max_bytes=_NO_BOUND, max_age=_NO_BOUND)

"""What is left in the agents' spools, read from their directories."""

from collections.abc import Iterable, Mapping
from typing import Final

from agent.delivery.spool import Spool
from agent.state import StateDirectory
from schema.names import IP_VERSIONS
from testbed.checker.replay import BatchKey
from testbed.demo.accounting import Spooled

_NO_BOUND: Final = 1 << 62


def is_empty(directory: StateDirectory) -> bool:
    """Whether no batch waits; may be asked while the agent runs."""
    for ipv in IP_VERSIONS:
        spool = directory.spool / ipv
        if spool.is_dir() and any(path.name.isdigit() for path in spool.iterdir()):
            return False
    return True


def read_spools(directories: Mapping[int, StateDirectory]) -> Spooled:
    """All that the spools of these monitors (by id) say, after their agents have ended."""
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

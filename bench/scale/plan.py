"""Define one part of a run: how many workers of each kind, for how long, in which pool; and what its phases share."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy.engine import Engine

from auth.tokens import Role, token_source
from bench.figure import Figure
from bench.measure import machine_load
from bench.stage import Stage, shares
from bench.world import ENV
from runtime.db.engine import transaction, utc_now
from runtime.db.queue import SCORING
from runtime.db.system_settings import PoolSettingsReader
from runtime.mqtt.session import NotConnected
from testbed.checker.assignments import Tree, compare_assignments, read_tree
from testbed.operator import Operator

PHASES: Final = 5
"""Measured spans: ingest, everything at once, scorer, selector, API."""

_NAME: Final = "scale"
_PUBLISHED_WITHIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One number of workers."""

    workers: int
    seconds: float
    """Duration of each phase."""
    servers: int
    monitors: int

    def figure(self, name: str, value: float, unit: str, cores: Mapping[str, float], **more: Any) -> Figure:
        """Return a figure with the conditions of this plan.

        Args:
            value: units per second.
            cores: how many each process kept busy. The processor time per unit follows from it, which depends less on
                what else the machine does.
        """
        conditions = {"workers": self.workers, "servers": self.servers, "monitors": self.monitors}
        spent = {name: round(busy * 1e3 / value, 3) for name, busy in cores.items()} if value else {}
        return Figure(
            f"{name}, {self.workers} of each kind",
            value,
            unit,
            conditions={**conditions, **more, "cores": dict(cores), "cpu_ms_each": spent, **machine_load()},
        )


class Busy:
    """The cores that each process keeps busy from the construction until :meth:`cores`."""

    def __init__(self, on: Stage) -> None:
        self._on, self._before, self._began = on, on.cpu_seconds(), time.monotonic()

    def cores(self) -> dict[str, float]:
        """Return them by process."""
        return shares(self._before, self._on.cpu_seconds(), time.monotonic() - self._began)


async def start_workers(on: Stage, kind: str, count: int) -> list[str]:
    """Start this many workers of a kind; return their names."""
    return [await on.start_worker(kind, number=number) for number in range(1, count + 1)]


def make_due_for_scoring(engine: Engine, server_ids: Sequence[int]) -> None:
    """Make these servers due for a new score."""
    transaction(engine, lambda connection: SCORING.hold_due(connection, server_ids, utc_now()))


async def published_tree(on: Stage) -> Tree:
    """Return the retained assignments, once they agree with the ledger or could have done so.

    Raises:
        NotConnected: the broker did not answer in time.
    """
    token = token_source(on.site.key, Role.SERVER, _NAME, ENV)
    operator = Operator(on.site.broker_address, _NAME, token, ENV)
    intervals = (await on.read(lambda connection: PoolSettingsReader(on.engine).get())).monitors
    deadline = time.monotonic() + _PUBLISHED_WITHIN
    async with operator.client.connected():
        while True:
            late = time.monotonic() > deadline
            try:
                tree = await read_tree(operator.session, operator.topics)
            except NotConnected:  # the machine is so busy that the broker does not answer in time
                if late:
                    raise
                continue
            found = await on.read(partial(compare_assignments, tree=tree, topics=operator.topics, intervals=intervals))
            if late or not found:
                return tree

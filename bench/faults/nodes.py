"""Inject faults of the nodes of a Galera cluster: slow, cut off from the others, and two killed at once."""

import asyncio
import signal
from functools import partial
from typing import Final

from bench.faults.plan import NODES, Planned
from bench.faults.processes import Stop
from bench.faults.rig import Rig
from testbed.galera import GaleraNode, start_together

_STOPPED: Final = (0.2, 1.5)
"""Seconds for which a slow node stands still at a time."""

_RUNS: Final = 0.05
"""Seconds for which it then runs."""

_BACK_WITHIN: Final = 90.0
"""Seconds for a node to be a synchronous member again, once it reaches the others."""


def _node(rig: Rig, name: str) -> GaleraNode:
    node = rig.databases[name]
    assert isinstance(node, GaleraNode)
    return node


async def _until_back(rig: Rig, *names: str) -> None:
    for name in names:
        await rig.until(partial(asyncio.to_thread, _node(rig, name).answers), f"return of {name}", _BACK_WITHIN)


class FrozenNode(Stop):
    """A node is stopped for so long that the others remove it from the cluster, and joins them again."""

    async def end(self) -> None:
        await super().end()
        await _until_back(self._rig, self._name)


class SlowNode:
    """A node gets a small share of the processor."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        least, most = _STOPPED
        self._stopped = least + planned.luck * (most - least)
        self._slowing: asyncio.Task[None] | None = None
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        self._slowing = asyncio.create_task(self._slow())

    async def _slow(self) -> None:
        while True:
            self._rig.signal(self._name, signal.SIGSTOP)
            await asyncio.sleep(self._stopped)
            self._rig.signal(self._name, signal.SIGCONT)
            await asyncio.sleep(_RUNS)

    async def end(self) -> None:
        if self._slowing is not None:
            self._slowing.cancel()
            await asyncio.wait({self._slowing})
        self._rig.signal(self._name, signal.SIGCONT)
        await _until_back(self._rig, self._name)


class CutOff:
    """A node does not reach the others, but workers reach it."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        await asyncio.to_thread(_node(self._rig, self._name).isolate, True)

    async def end(self) -> None:
        await asyncio.to_thread(_node(self._rig, self._name).isolate, False)
        await _until_back(self._rig, self._name)


class TwoKilled:
    """Two nodes are killed, so that the third one has no majority and refuses everything; they start again together."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig = rig
        left = NODES[int(planned.luck * len(NODES))]
        self._names = [name for name in NODES if name != left]
        self.touches = frozenset(NODES)

    async def begin(self) -> None:
        await asyncio.gather(*(self._rig.kill(name) for name in self._names))

    async def end(self) -> None:
        await asyncio.to_thread(start_together, [_node(self._rig, name) for name in self._names])
        await _until_back(self._rig, *NODES)

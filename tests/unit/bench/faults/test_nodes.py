"""Test the faults of a cluster's nodes: each is broken as its name says, and is over only when the node is back."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from bench.faults import nodes
from bench.faults.faults import make_fault
from bench.faults.plan import NODES, Planned
from testbed.waiting import wait_until


class _Node:
    """Stands in for a node: it is a member of the cluster again when it is asked for the second time."""

    def __init__(self, name: str, done: list[tuple[Any, ...]]) -> None:
        self._name, self._done, self._asked = name, done, 0

    def isolate(self, isolated: bool) -> None:
        self._done.append(("isolate", self._name, isolated))

    def answers(self) -> bool:
        self._asked += 1
        if self._asked > 1:
            self._done.append(("back", self._name))
        return self._asked > 1


class _Rig:
    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.databases = {name: _Node(name, self.done) for name in NODES}

    def signal(self, name: str, number: signal.Signals) -> None:
        self.done.append((number.name, name))

    async def kill(self, name: str) -> None:
        self.done.append(("kill", name))

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, within: float) -> None:
        while not await condition():
            pass


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> _Rig:
    """A fake rig with three fake nodes."""
    found = _Rig()
    monkeypatch.setattr(nodes, "_node", lambda rig, name: rig.databases[name])
    monkeypatch.setattr(nodes, "start_together", lambda some: found.done.append(("start", *(n._name for n in some))))
    return found


def fault(rig: _Rig, kind: str, target: str, luck: float = 0.5) -> Any:
    return make_fault(cast(Any, rig), Planned(0.0, 1.0, kind, target, luck))


@pytest.mark.parametrize(
    ("kind", "begins", "ends"),
    [
        ("frozen node", [("SIGSTOP", "node 2")], [("SIGCONT", "node 2"), ("back", "node 2")]),
        ("node cut off", [("isolate", "node 2", True)], [("isolate", "node 2", False), ("back", "node 2")]),
    ],
)
async def test_node_is_broken_and_awaited(
    rig: _Rig, kind: str, begins: list[tuple[Any, ...]], ends: list[tuple[Any, ...]]
) -> None:
    one = fault(rig, kind, "node 2")
    assert one.touches == {"node 2"}
    await one.begin()
    assert rig.done == begins
    await one.end()
    assert rig.done == begins + ends


async def test_slow_node_runs_in_between_and_continues_at_the_end(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_STOPPED", (0.001, 0.001))
    monkeypatch.setattr(nodes, "_RUNS", 0.001)
    one = fault(rig, "slow node", "node 3")
    await one.begin()
    await wait_until(lambda: len(rig.done) > 4, within=60)
    await one.end()
    assert rig.done[:4] == [("SIGSTOP", "node 3"), ("SIGCONT", "node 3")] * 2
    assert rig.done[-2:] == [("SIGCONT", "node 3"), ("back", "node 3")]
    count = len(rig.done)
    await asyncio.sleep(0.01)
    assert len(rig.done) == count


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.99])
async def test_two_nodes_are_killed_and_start_together(rig: _Rig, luck: float) -> None:
    one = fault(rig, "two killed nodes", "cluster", luck)
    await one.begin()
    killed = [name for what, name in rig.done if what == "kill"]
    assert len(set(killed)) == len(rig.done) == 2
    await one.end()
    assert rig.done[2] == ("start", *killed)
    assert {name for _, name in rig.done[3:]} == set(NODES)

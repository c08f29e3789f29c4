"""Test how a system comes to rest: every part that does not is a difference, and all parts are awaited."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from bench.faults import rest as rest_module
from bench.faults.journal import Began, Stored, Storing
from bench.faults.rest import Rest
from runtime.db.engine import reading, utc_now
from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals
from schema.messages import Assignment, encode
from schema.tables import servers
from schema.topics import Topics
from testbed.fixtures.batches import new_batch, new_result
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, monitor_name
from testbed.stack import CannotRun

NAME = monitor_name("one")
PROCESS = "agent one"
T = TypeVar("T")


class _Operator:
    """Record control commands without sending them."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []
        self.refused: set[str] = set()
        self.measured_by_agent: int | None = 2
        self.session, self.topics = None, Topics("devel")

    async def service(self, service: str, command: str) -> bool:
        self.given.append((service, command))
        return service not in self.refused

    async def agent(self, name: str, command: str) -> bool:
        self.given.append((name, command))
        return name not in self.refused

    async def measured(self, name: str) -> int | None:
        assert name == NAME
        return self.measured_by_agent


class _Rig:
    """A ledger with one pair, which is measured when results are awaited; every condition is checked only once."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine, self.directory = engine, directory
        self.operator = _Operator()
        self.waited: list[str] = []
        self.measures = self.spools_empty = True
        self.load_ends_with = 0
        with engine.begin() as connection:
            self.server, self.monitor = add_server(connection), add_monitor(connection, NAME)
            add_pair(connection, self.server, self.monitor)
            self.ip = str(connection.scalar(sa.select(servers.c.ip)))
            add_log_score(connection, self.server, self.monitor, utc_now())
        self.monitors = {PROCESS: SimpleNamespace(name=NAME)}
        world = SimpleNamespace(monitors=list(self.monitors.values()))
        self.fault_site = SimpleNamespace(world=world, handles=lambda name: directory / name)
        self.supervisor = SimpleNamespace(pid=self._pid, wait=self._wait)
        journal = directory / PROCESS / "journal"
        journal.parent.mkdir()
        batch = new_batch(*(new_result(self.server, self.ip, age=age) for age in (600.0, 0.0)))
        lines = [Began(1), Storing(0, batch.id, msgspec.Raw(encode(batch))), Stored(0)]
        journal.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def tree(self) -> dict[str, bytes]:
        told = Assignment(server_id=self.server, ip=self.ip, status="active", interval=Intervals().interval_active)
        return {self.operator.topics.assignment(NAME, "v4", self.server): encode(told)}

    async def read(self, work: Callable[[Connection], T]) -> T:
        with reading(self.engine) as connection:
            return work(connection)

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, within: float) -> None:
        self.waited.append(what)
        if what == "results of all servers" and self.measures:
            with self.engine.begin() as connection:
                add_log_score(connection, self.server, self.monitor, utc_now())
        if not await condition():
            raise CannotRun(f"{what}: not within {within:g} s")

    def spools_are_empty(self) -> bool:
        return self.spools_empty

    def end_of_log(self, name: str) -> str:
        return f"the end of the log of {name}"

    def _pid(self, name: str) -> int | None:
        self._load = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        return self._load.pid

    async def _wait(self, name: str) -> int:
        with self._load:
            assert await asyncio.to_thread(self._load.wait, 60) == -15, "it is asked to end"
        return self.load_ends_with


@pytest.fixture
def rig(sqlite_engine: Engine, tmp_path: Path) -> _Rig:
    """Return a rig that comes to rest."""
    return _Rig(sqlite_engine, tmp_path)


async def come(rig: _Rig, monkeypatch: pytest.MonkeyPatch, tree: dict[str, bytes] | None = None) -> Rest:
    """Bring the rig to rest, with these retained assignments, by default those of the ledger."""
    retained = rig.tree() if tree is None else tree

    async def read_tree(*_: object) -> dict[str, bytes]:
        return retained

    monkeypatch.setattr(rest_module, "read_tree", read_tree)
    rest = Rest(cast(Any, rig))
    assert await rest.come("load 1") == retained
    return rest


WAITED = [
    "the selector pauses",
    "results of all servers",
    f"{NAME} pauses",
    f"the counts of {PROCESS}",
    "spools are delivered",
    "all servers are scored",
    "retained assignments agree with the ledger",
]


async def test_system_that_comes_to_rest_has_no_differences(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = await come(rig, monkeypatch)
    assert rest.differences == []
    assert rig.waited == WAITED
    assert rig.operator.given == [("selector", "pause"), (NAME, "pause")]
    [diary] = rest.diaries()
    assert (diary.monitor, diary.journal, diary.measured) == (NAME, rig.directory / PROCESS / "journal", 2)
    await rest.go_on()
    assert rig.operator.given[2:] == [(NAME, "resume"), ("selector", "resume")]


async def test_the_journal_of_a_second_agent_with_the_same_name_is_included(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rig.directory / f"{PROCESS} copy" / "journal"
    copy.parent.mkdir()
    copy.touch()
    diaries = (await come(rig, monkeypatch)).diaries()
    assert [(diary.journal, diary.measured) for diary in diaries] == [
        (rig.directory / PROCESS / "journal", 2),
        (copy, None),
    ]


def _is_due(rig: _Rig) -> None:
    with rig.engine.begin() as connection:
        SCORING.add(connection, [rig.server], utc_now())
        SCORING.make_due(connection, [rig.server], utc_now())


TROUBLES: dict[str, Callable[[_Rig], object]] = {
    "the selector pauses": lambda rig: rig.operator.refused.add("selector"),
    "results of all servers": lambda rig: setattr(rig, "measures", False),
    f"{NAME} pauses": lambda rig: rig.operator.refused.add(NAME),
    f"the counts of {PROCESS}": lambda rig: setattr(rig.operator, "measured_by_agent", 3),
    "spools are delivered": lambda rig: setattr(rig, "spools_empty", False),
    "all servers are scored": _is_due,
}


@pytest.mark.parametrize("what", TROUBLES)
async def test_every_part_that_does_not_come_to_rest_is_a_difference(
    what: str, rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    TROUBLES[what](rig)
    rest = await come(rig, monkeypatch)
    [found] = rest.differences
    assert found.kind == "waiting"
    assert found.text.startswith(f"{what}: not within ")
    assert rig.waited == WAITED, "the others are waited for all the same"


async def test_agent_that_does_not_report_its_counts_is_a_difference(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.operator.measured_by_agent = None
    assert [found.kind for found in (await come(rig, monkeypatch)).differences] == ["waiting"]


async def test_assignments_that_differ_from_the_ledger_are_a_difference(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    [found] = (await come(rig, monkeypatch, {})).differences
    assert found.text.startswith("retained assignments agree with the ledger: not within ")


async def test_incompletely_acknowledged_load_is_a_difference(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.load_ends_with = 1
    [found] = (await come(rig, monkeypatch)).differences
    assert found.kind == "waiting"
    assert found.text == "not all batches of load 1 were acknowledged:\nthe end of the log of load 1"

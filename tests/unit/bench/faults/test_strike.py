"""Test that every kind of fault breaks something, and repairs exactly that."""

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.faults import processes
from bench.faults.certificates import WrongCertificate
from bench.faults.clock import ClockOffset
from bench.faults.faults import Fault, make_fault
from bench.faults.plan import Planned
from bench.faults.points import order_file
from testbed.tcp_proxy import Direction
from testbed.waiting import wait_until

AGENT = "agent one"


class _Rig:
    """Records what is done to its processes and links."""

    def __init__(self, directory: Path) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.differences: list[Any] = []
        self.monitors = {AGENT: None}
        self.ends: set[str] = set()
        broker = SimpleNamespace(directory=directory)
        self.site = SimpleNamespace(broker=broker, logs=directory)
        self.fault_site = SimpleNamespace(handles=lambda name: directory)
        self.supervisor = SimpleNamespace(wait=self._wait)
        links = ("agents to broker", "workers to broker", "workers to database")
        self.links = {link: _Link(link, self.done) for link in links}

    async def _wait(self, name: str) -> int:
        while name not in self.ends:
            await asyncio.sleep(0)
        return -9

    def signal(self, name: str, number: signal.Signals) -> None:
        self.done.append((number.name, name))

    async def kill(self, name: str) -> None:
        self.done.append(("kill", name))

    async def stop(self, name: str) -> None:
        self.done.append(("stop", name))

    async def start_again(self, name: str) -> None:
        self.done.append(("start again", name))

    async def start_worker(self, name: str) -> None:
        self.done.append(("start", name))


class _Link:
    def __init__(self, name: str, done: list[tuple[Any, ...]]) -> None:
        self._name, self._done = name, done

    def __getattr__(self, what: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._done.append((what, *arguments))
            return asyncio.sleep(0) if what in ("cut", "accept") else None

        return call


@pytest.fixture
def rig(tmp_path: Path) -> _Rig:
    """A fake rig without running processes."""
    return _Rig(tmp_path)


def fault(rig: _Rig, kind: str, target: str, luck: float = 0.5) -> Fault:
    return make_fault(cast(Any, rig), Planned(at=0.0, seconds=1.0, kind=kind, target=target, luck=luck))


@pytest.mark.parametrize(
    ("kind", "target", "begins", "ends"),
    [
        ("kill", "scorer", [("kill", "scorer")], [("start again", "scorer")]),
        ("stop", "scorer", [("SIGSTOP", "scorer")], [("SIGCONT", "scorer")]),
        ("restart of the broker", "broker", [("stop", "broker")], [("start again", "broker")]),
        ("restart of the database", "database", [("stop", "database")], [("start again", "database")]),
        ("worker leaves in order", "ingest 1", [("stop", "ingest 1")], [("start again", "ingest 1")]),
        ("worker comes", "ingest 3", [("start", "ingest 3")], [("stop", "ingest 3")]),
    ],
)
async def test_fault_of_a_process_is_made_and_repaired(
    rig: _Rig, kind: str, target: str, begins: list[Any], ends: list[Any]
) -> None:
    one = fault(rig, kind, target)
    assert target in one.touches
    await one.begin()
    assert rig.done == begins
    rig.done.clear()
    await one.end()
    assert rig.done == ends


async def test_wiped_broker_loses_its_files_before_it_is_restarted(rig: _Rig, tmp_path: Path) -> None:
    kept, gone = tmp_path / "mosquitto.conf", [tmp_path / "mosquitto.db", tmp_path / "mosquitto.db.new"]
    for path in (kept, *gone):
        path.touch()
    one = fault(rig, "restart of the broker without its files", "broker")
    await one.begin()
    assert rig.done == [("kill", "broker")], "one that ends in order would write them again"
    await one.end()
    assert kept.exists() and not any(path.exists() for path in gone)
    assert rig.done[1:] == [("start again", "broker")]


@pytest.mark.parametrize("reached", [True, False])
async def test_process_dies_at_its_kill_point_or_is_killed_later(
    rig: _Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    monkeypatch.setattr(processes, "_AT_THE_POINT_WITHIN", 60.0 if reached else 0.0)
    point = "scorer: before the commit"
    one: Any = fault(rig, "kill at a point", point)
    assert one.touches == {"scorer"}
    order = order_file(tmp_path, point)
    begins = asyncio.create_task(one.begin())
    if reached:
        await wait_until(order.exists, f"the order {order}", within=60)
        rig.ends.add("scorer")
    await begins
    assert one.reached is reached
    assert not order.exists(), "it must not die later"
    await one.end()
    assert rig.done == [("kill", "scorer"), ("start again", "scorer")]


@pytest.mark.parametrize(("kind", "seconds"), [("clock an hour ahead", 3_600), ("clock an hour behind", -3_600)])
async def test_a_clock_is_set_and_set_back(rig: _Rig, tmp_path: Path, kind: str, seconds: int) -> None:
    one = fault(rig, kind, AGENT)
    [path] = tmp_path.iterdir()
    offset = ClockOffset(path)
    await one.begin()
    assert offset.nanoseconds() == seconds * 1_000_000_000
    await one.end()
    assert offset.nanoseconds() == 0


WHOLE_AGAIN = [
    ("delay", 0.0),
    ("slice", 0),
    ("cut_new_after", None, Direction.TO_CLIENT),
    ("cut_new_after", None, Direction.TO_TARGET),
    ("resume",),
    ("accept",),
]


@pytest.mark.parametrize(
    ("kind", "luck", "begins"),
    [
        ("delayed TCP", 0.5, [("delay", 0.27)]),
        ("sliced TCP", 0.5, [("slice", 270)]),
        ("hanging TCP", 0.0, [("pause",)]),
        ("hanging TCP", 0.5, [("pause", Direction.TO_CLIENT)]),
        ("hanging TCP", 0.9, [("pause", Direction.TO_TARGET)]),
        ("refused TCP", 0.5, [("refuse",), ("cut",)]),
        ("silent TCP", 0.5, [("pause",), ("cut",)]),
        ("cut TLS handshakes", 0.25, [("cut_new_after", 201, Direction.TO_TARGET), ("cut",)]),
        ("cut TLS handshakes", 0.75, [("cut_new_after", 201, Direction.TO_CLIENT), ("cut",)]),
    ],
)
async def test_link_is_disturbed_and_restored(rig: _Rig, kind: str, luck: float, begins: list[Any]) -> None:
    one = fault(rig, kind, "agents to broker", luck)
    await one.begin()
    assert rig.done == begins
    rig.done.clear()
    await one.end()
    assert sorted(map(str, rig.done)) == sorted(map(str, WHOLE_AGAIN))


async def test_connections_are_cut_midway_until_the_fault_ends(rig: _Rig) -> None:
    one = fault(rig, "cut TCP", "workers to database", 0.1)
    await one.begin()
    await wait_until(lambda: rig.done, within=60)
    assert rig.done == [("cut_after", 501, Direction.TO_TARGET)]
    await one.end()
    assert sorted(map(str, rig.done[1:])) == sorted(map(str, WHOLE_AGAIN))
    assert len(asyncio.all_tasks()) == 1


async def test_client_that_trusts_a_wrong_certificate_is_a_difference(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("New client connected from 127.0.0.1:1 as before (p5)\n")
    rig: Any = _Rig(tmp_path)
    rig.fault_site.authority = None
    rig.site.broker.certificate = "right"
    shown: list[Any] = []

    class Shown(WrongCertificate):
        async def _show(self, certificate: Any) -> None:
            shown.append(certificate)

        def _is_shown(self, certificate: Any) -> bool:
            return True

    planned = Planned(at=0.0, seconds=1.0, kind="certificate of another CA", target="broker", luck=0.5)
    one = Shown(rig, planned)
    await one.begin()
    with log.open("a") as file:
        file.write("New client connected from 127.0.0.1:2 as careless (p5)\n")
    await one.end()
    assert [(found.kind, found.text.partition(",")[0]) for found in rig.differences] == [("trusted", "careless")]
    assert shown[1:] == ["right"] and shown[0] != "right"
    assert os.listdir(tmp_path) == ["broker.log"]

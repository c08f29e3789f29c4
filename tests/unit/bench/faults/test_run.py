"""Test that a fault run reports every finding of rig, rest and verdict in any round, and every dead process."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bench.faults import run as run_module
from bench.faults.plan import Planned
from bench.faults.report import Struck, Summary
from bench.faults.run import Options, Run, run_faults
from bench.faults.verdict import Verdict
from testbed.checker.difference import Difference
from testbed.process import Death
from testbed.waiting import wait_until

PLANNED = Planned(at=0.0, seconds=0.0, kind="kill", target="ingest 1", luck=0.5)


class _Rig:
    """A fake rig: processes that die on demand, and locks."""

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.engine: Any = None
        self.monitors = {"agent one": None}
        self.supervisor = SimpleNamespace(deaths=[])
        self.databases = {"database": SimpleNamespace(running=True)}
        self.done: list[tuple[str, str]] = []
        self._locks: dict[str, asyncio.Lock] = {}

    async def __aenter__(self) -> "_Rig":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def start(self) -> None: ...

    async def start_load(self, number: int, seed: int) -> str:
        return f"load {number}"

    def lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def kill(self, name: str) -> None:
        self.done.append(("kill", name))

    async def start_again(self, name: str) -> None:
        self.done.append(("start", name))
        self.databases["database"].running = True


class _Fault:
    """Records its calls."""

    def __init__(self, reached: bool = True) -> None:
        self.touches = frozenset({"ingest 1", "scorer"})
        self.done: list[str] = []
        self.reached = reached

    async def begin(self) -> None:
        self.done.append("begin")

    async def end(self) -> None:
        self.done.append("end")


def a_run(seconds: float = 0.0) -> Run:
    site = SimpleNamespace(site=SimpleNamespace(directory=Path("/nowhere")))
    return Run(cast(Any, site), cast(Any, SimpleNamespace(servers={})), Options(seconds=seconds, seed=1), ["kill"])


def strike(rig: _Rig, run: Run, within: float = 60.0) -> Any:
    return run._one(cast(Any, rig), PLANNED, run_module.time.monotonic() + within)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Rig]:
    """Make the successive rounds of a run find the given differences in the given places."""

    def have(*found: dict[str, list[Difference]]) -> _Rig:
        rig, left = _Rig(), list(found)

        class Rest:
            def __init__(self, _rig: object) -> None:
                self.now = left.pop(0)
                self.differences = self.now.get("rest", [])
                rig.differences += self.now.get("rig", [])

            async def come(self, load: str) -> dict[str, bytes]:
                return {}

            def diaries(self) -> list[Any]:
                return []

            async def go_on(self) -> None: ...

        def judge(*_: object) -> Verdict:
            return Verdict(100, 90, 80, 0, tuple(verdicts.pop(0)))

        verdicts = [one.get("verdict", []) for one in found]
        monkeypatch.setattr(run_module, "Rest", Rest)
        monkeypatch.setattr(run_module, "judge", judge)
        monkeypatch.setattr(run_module, "Rig", lambda *_: rig)
        monkeypatch.setattr(run_module, "SETTLE", 0.0)
        monkeypatch.setattr(run_module, "make_plan", lambda *_, **__: [PLANNED])
        monkeypatch.setattr(run_module, "make_fault", lambda *_: _Fault())
        return rig

    return have


GONE = Difference("lost", "a batch")


@pytest.mark.parametrize("place", ["rig", "rest", "verdict"])
async def test_difference_found_by_any_part_ends_and_fails_the_run(place: str, rounds: Callable[..., _Rig]) -> None:
    rounds({}, {place: [GONE]}, {})
    run = a_run(2_700.0)
    run._strike = _nothing  # type: ignore[method-assign]
    summary = await run.run()
    assert run.found.differences == [GONE]
    assert (summary.good, summary.lost, summary.rounds) == (False, 1, 2)


async def _nothing(*_: object) -> None: ...


async def test_each_round_lasts_15_minutes_and_all_faults_are_counted(rounds: Callable[..., _Rig]) -> None:
    rounds({}, {}, {})
    run = a_run(2_700.0)

    async def strike_once(rig: Any, plan: list[Planned], seconds: float) -> None:
        assert seconds == 900.0
        await run._one(rig, plan[0], run_module.time.monotonic() + seconds)

    run._strike = strike_once  # type: ignore[method-assign]
    summary = await run.run()
    assert (summary.good, summary.rounds, summary.faults) == (True, 3, {"kill": 3})
    assert [record.name for record in run._records] == ["load-1.jsonl", "load-2.jsonl", "load-3.jsonl"]


async def test_fault_is_repaired_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run, rig, fault = a_run(), _Rig(), _Fault()
    monkeypatch.setattr(run_module, "make_fault", lambda *_: fault)
    await strike(rig, run)
    assert fault.done == ["begin", "end"]
    assert run._struck == [Struck(PLANNED, True)]


async def test_failed_fault_is_repaired_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run, rig, fault = a_run(), _Rig(), _Fault()

    async def fail() -> None:
        raise OSError("no")

    fault.begin = fail  # type: ignore[method-assign]
    monkeypatch.setattr(run_module, "make_fault", lambda *_: fault)
    with pytest.raises(OSError, match="no"):
        await strike(rig, run)
    assert fault.done == ["end"]
    assert run._struck == []


async def test_late_fault_is_skipped_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run, fault = a_run(), _Fault()
    monkeypatch.setattr(run_module, "make_fault", lambda *_: fault)
    await strike(_Rig(), run, within=-1.0)
    assert (fault.done, run._struck) == ([], [])


async def test_fault_waits_for_the_locks_of_all_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    run, rig, fault = a_run(), _Rig(), _Fault()
    monkeypatch.setattr(run_module, "make_fault", lambda *_: fault)
    for name in fault.touches:
        async with rig.lock(name):
            striking = asyncio.create_task(strike(rig, run))
            for _ in range(20):
                await asyncio.sleep(0)
            assert fault.done == [], name
        await striking
        assert fault.done == ["begin", "end"]
        fault.done.clear()


async def test_dead_processes_are_reported_and_restarted_except_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "_LOOK_EVERY", 0.001)
    run, rig = a_run(), _Rig()
    names = ["scorer", "load 1", "agent one"]
    rig.supervisor.deaths += [Death(name, "ended with 1", Path("log"), "") for name in names[:1]]
    watch = asyncio.create_task(run._watch(cast(Any, rig)))
    await wait_until(lambda: len(run.found.died) >= 1, within=60)
    rig.supervisor.deaths += [Death(name, "ended with 1", Path("log"), "") for name in names[1:]]
    await wait_until(lambda: len(run.found.died) >= 3, within=60)
    rig.databases["database"].running = False
    await wait_until(lambda: len(run.found.died) >= 4 and rig.databases["database"].running, within=60)
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    assert [text.partition(" ended")[0] for text in run.found.died] == [*names, "the database"]
    assert rig.done == [("start", "scorer"), ("start", "agent one"), ("kill", "database"), ("start", "database")]


async def test_database_stopped_by_a_fault_is_not_reported_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_LOOK_EVERY", 0.0)
    run, rig = a_run(), _Rig()
    rig.databases["database"].running = False
    async with rig.lock("database"):
        watch = asyncio.create_task(run._watch(cast(Any, rig)))
        for _ in range(50):
            await asyncio.sleep(0)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    assert (run.found.died, rig.done) == ([], [])


@pytest.mark.parametrize("good", [True, False])
def test_exit_code_is_the_verdict_and_only_a_failed_run_keeps_its_logs(
    good: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    (directory / "logs").mkdir(parents=True)
    summary = Summary(
        good=good,
        seed=1,
        seconds=1.0,
        rounds=1,
        faults={},
        points={},
        left_out=[],
        results_attempted=1,
        results_acknowledged=1,
        results_stored=1,
        results_discarded=0,
        lost=0,
        duplicated=0,
        unexplained=0,
        unseen=[],
    )

    class Ended:
        def __init__(self, *_: object) -> None:
            self.found = run_module.Found()

        async def run(self) -> Summary:
            return summary

    monkeypatch.setattr(run_module, "Run", Ended)
    monkeypatch.setattr(run_module, "_own_disks", lambda: False)
    monkeypatch.setattr(run_module, "_databases", lambda *_, **__: nullcontext())
    monkeypatch.setattr(run_module, "_site", lambda *_, **__: None)
    monkeypatch.setattr(run_module.tempfile, "mkdtemp", lambda **_: str(directory))
    assert run_faults(Options(seconds=1.0, seed=1, ipv6=True)) == (0 if good else 1)
    assert (directory / "logs").exists() is not good
    said = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])
    assert said["good"] is good
    assert (said["ipv6"], said["left_out"]) == (True, ["full disk under the database", "full disk under the spool"])

"""Test what a benchmark measures: answers within its window only, and no failed load or dead process."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.engine import URL

from bench.measure import Answer, Window, answers, latencies, rate
from bench.stage import Stage, cpu_seconds, run, shares
from schema.messages import BatchCommitted, BatchRefused
from testbed.database import DatabaseServer
from testbed.load import __main__ as load_module
from testbed.load.generator import Generator
from testbed.load.record import Record
from testbed.load.spec import LoadSpec
from testbed.load.traffic import Made
from testbed.stack import CannotRun

SECOND = 1_000_000_000
NAME = "m.devel.mon.example"


def batch_id(number: int) -> str:
    return f"{number:026d}"


def test_only_the_first_answers_within_the_window_are_measured(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        for number in range(6):
            record.sent(number * SECOND, NAME, "v4", Made(batch_id(number), "plain", b""))
        answered = [(0, 9.999, 1), (1, 10.0, 10), (2, 19.999, 20), (3, 20.0, 30), (1, 15.0, 10)]
        for number, at, stored in answered:
            ack = BatchCommitted(batch=batch_id(number), stored=stored)
            record.answered(int(at * SECOND), NAME, "v4", ack)
        record.answered(15 * SECOND, NAME, "v4", BatchRefused(batch=batch_id(4), reason="no"))
    window = Window(10.0, 20.0, {})
    found = answers(tmp_path / "record", window)
    assert found == [Answer(10.0, 9.0, 10), Answer(pytest.approx(19.999), pytest.approx(17.999), 20)]
    assert rate(found, window) == 3.0
    assert latencies(found) == {"p50_ms": 9000.0, "p90_ms": 17999.0, "p99_ms": 17999.0, "max_ms": 17999.0}


def test_cpu_shares_include_processes_that_started_later() -> None:
    assert shares({"ingest": 10.0, "gone": 1.0}, {"ingest": 14.0, "late": 1.0}, 8.0) == {"ingest": 0.5, "late": 0.12}


def a_stage(directory: Path, **supervisor: Any) -> Stage:
    site = SimpleNamespace(logs=directory, database=URL.create("sqlite"))
    made = Stage(cast(Any, site), cast(Any, None))
    made.supervisor = cast(Any, SimpleNamespace(**supervisor))
    return made


@pytest.mark.parametrize("status", [0, 1, -9])
async def test_a_load_that_failed_cannot_be_measured(status: int, tmp_path: Path) -> None:
    (tmp_path / "load.log").write_text("2 batches were not acknowledged\n")
    (tmp_path / "ingest.log").write_text("2026-01-02 WARNING database: away\nall well\n")

    async def wait(name: str) -> int:
        return status

    ended = a_stage(tmp_path, wait=wait).wait_load("load", 60.0)
    if status == 0:
        await ended
        return
    with pytest.raises(CannotRun) as caught:
        await ended
    assert str(caught.value).startswith(f"load exited with {status}:\n")
    assert "2 batches were not acknowledged" in str(caught.value)
    assert "ingest: 2026-01-02 WARNING database: away" in str(caught.value)


async def test_a_load_that_does_not_end_cannot_be_measured(tmp_path: Path) -> None:
    (tmp_path / "load.log").touch()
    with pytest.raises(CannotRun, match="load did not end within 0 s"):
        await a_stage(tmp_path, wait=lambda _: asyncio.Event().wait()).wait_load("load", 0.0)


async def _never() -> bool:
    return False


async def test_missed_condition_or_dead_process_ends_a_benchmark(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="the end did not happen within -1 s"):
        await a_stage(tmp_path, deaths=[]).until(_never, "the end", within=-1.0)
    with pytest.raises(CannotRun, match="scorer ended with 1"):
        await a_stage(tmp_path, deaths=["scorer ended with 1"]).until(_never, "the end")


@pytest.mark.parametrize("error", [CannotRun("x"), FileNotFoundError("x"), RuntimeError("x")])
def test_benchmark_that_cannot_run_exits_with_2(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def temporary(**_: object) -> Any:
        raise error

    monkeypatch.setattr("bench.stage.temporary_database", temporary)
    monkeypatch.setattr("bench.stage.end_by_unwinding", lambda: None)

    async def main(database: DatabaseServer) -> int:
        return 0

    assert run(main) == 2


def monitors(*idle: bool) -> Any:
    return [SimpleNamespace(idle=one) for one in idle]


@pytest.mark.parametrize(("idle", "all_done"), [((True, True), True), ((True, False), False), ((False, True), False)])
async def test_load_is_complete_when_every_monitor_is_idle(idle: tuple[bool, ...], all_done: bool) -> None:
    drain: Callable[[Any], Awaitable[bool]] = Generator._drain
    generator = SimpleNamespace(monitors=monitors(*idle), _spec=SimpleNamespace(drain=-1.0))
    assert await drain(generator) is all_done


@pytest.mark.parametrize("complete", [True, False])
async def test_incompletely_acknowledged_load_exits_with_1(
    complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended:
        left, late = 0, 0.0

        def __init__(self, *_: object) -> None: ...

        async def run(self, stop: asyncio.Event) -> bool:
            return complete

    monkeypatch.setattr(load_module, "Generator", Ended)
    monkeypatch.setattr(load_module, "gc", SimpleNamespace(freeze=int, disable=int, collect=int))
    key = tmp_path / "key"
    key.write_text("k" * 48)
    given = {"env": "devel", "host": "127.0.0.1", "port": 1, "key_file": key, "record": tmp_path / "record"}
    spec = LoadSpec(**given, members=[], drain=1.0, rate=1.0)
    assert await load_module._run(spec) == (0 if complete else 1)


def test_processor_time_of_an_ended_process_is_left_out() -> None:
    beyond_all = 2**22 + 1  # larger than Linux's largest process id
    assert cpu_seconds(beyond_all) is None
    assert (cpu_seconds(os.getpid()) or 0.0) > 0.0

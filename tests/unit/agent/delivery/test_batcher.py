"""Test the path from results to batches on disk, and what a clock step withdraws."""

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.delivery import batcher as module
from agent.delivery.batcher import Batcher
from agent.delivery.spool import Batched, Spool
from agent.metrics import AgentCounters
from schema.limits import MAX_BATCH_RESULTS
from schema.messages import Batch, Result, decode
from testbed.waiting import wait_until


def result(server_id: int) -> Result:
    return Result(server_id=server_id, ip="192.0.2.1", ts=datetime.now(UTC))


class Bench:
    def __init__(self, path: Path) -> None:
        self.spool = Spool(path / "spool", max_bytes=10**8, max_age=3600)
        self.batches_made = 0
        self.counters = AgentCounters()
        self.batcher = Batcher(self.spool, "1.2.3", self.counters, self.count)

    def count(self) -> None:
        self.batches_made += 1

    def add(self, *server_ids: int, at: float | None = None) -> None:
        for server_id in server_ids:
            self.batcher.add(result(server_id), time.monotonic() if at is None else at)

    def spooled(self) -> list[list[int]]:
        found = []
        for number in self.spool:
            batched = self.spool.read(number)
            assert batched is not None
            batch = decode(batched.payload, Batch)
            assert (batch.id, batch.version, len(batch.results)) == (batched.id, "1.2.3", batched.results)
            found.append([one.server_id for one in batch.results])
        return found

    async def until(self, condition: Callable[[], object]) -> None:
        await wait_until(condition, lambda: str(self.spooled()), within=5)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.batcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        await bench.batcher.close()


async def test_results_of_one_window_share_a_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 0.05)
    async with running(bench):
        bench.add(1, 2)
        await asyncio.sleep(0.01)
        bench.add(3)
        await bench.until(lambda: bench.batches_made == 1)
        bench.add(4)
        await bench.until(lambda: bench.batches_made == 2)
    assert bench.spooled() == [[1, 2, 3], [4]]


async def test_a_full_batch_does_not_wait(bench: Bench) -> None:
    async with running(bench):
        bench.add(*range(MAX_BATCH_RESULTS))
        await asyncio.wait_for(bench.until(lambda: bench.batches_made == 1), module.WINDOW / 2)


async def test_no_batch_is_larger_than_ingest_accepts(bench: Bench) -> None:
    bench.add(*range(MAX_BATCH_RESULTS + 1))
    await bench.batcher.flush()
    assert [len(batch) for batch in bench.spooled()] == [MAX_BATCH_RESULTS, 1]


async def test_closing_stores_gathered_results(bench: Bench) -> None:
    async with running(bench):
        bench.add(1)
        await asyncio.sleep(0)
    assert bench.spooled() == [[1]]


async def test_batch_waits_longer_while_there_is_a_backlog(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 0.001)
    monkeypatch.setattr(module, "BACKLOG", 1)
    bench.add(1)
    await bench.batcher.flush()
    async with running(bench):
        bench.add(2)
        await asyncio.sleep(0.05)
        assert bench.spooled() == [[1]]
    assert bench.spooled() == [[1], [2]]


async def test_full_disk_loses_no_results_until_memory_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int, batch: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(bench.spool, "store", full)
        bench.add(1, 2)
        assert not await bench.batcher.flush()
        bench.add(3)
    assert await bench.batcher.flush()
    assert bench.spooled() == [[1, 2, 3]]
    assert bench.spool.counters.dropped_results == 0
    bench.add(*range(module.MAX_GATHERED + 7))
    assert bench.spool.counters.dropped_results == 7


async def test_clock_step_withdraws_unsent_results_since_the_last_good_check(bench: Bench) -> None:
    bench.add(1, at=10.0)
    await bench.batcher.flush()
    bench.batcher.vouch(15.0)
    bench.add(2, at=20.0)
    await bench.batcher.flush()
    bench.add(3, at=21.0)
    await bench.batcher.flush()
    bench.batcher.sent(3)
    bench.add(4, 5, at=22.0)
    assert bench.batcher.withdraw(since=15.0, now=time.monotonic()) == 3
    await bench.batcher.flush()
    assert bench.spooled() == [[1], [3]], "vouched for, and sent already"


async def test_check_vouches_only_for_earlier_results(bench: Bench) -> None:
    bench.add(1, at=20.0)
    await bench.batcher.flush()
    bench.batcher.vouch(15.0)
    assert bench.batcher.withdraw(since=15.0, now=time.monotonic()) == 1


async def test_batch_being_written_during_a_clock_step_is_withdrawn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stepped, store = threading.Event(), threading.Event(), bench.spool.store

    def slowly(number: int, batch: Batched) -> int:
        begun.set()
        assert stepped.wait(10)
        return store(number, batch)

    monkeypatch.setattr(bench.spool, "store", slowly)
    bench.add(1, at=20.0)
    writing = asyncio.create_task(bench.batcher.flush())
    assert await asyncio.to_thread(begun.wait, 10)
    bench.batcher.withdraw(since=15.0, now=time.monotonic())
    stepped.set()
    await writing
    assert (bench.spooled(), bench.batches_made) == ([], 0)
    assert bench.counters.probes_discarded == 1, "what was measured is in the ledger, on its way, or discarded"
    bench.add(2)
    await bench.batcher.flush()
    assert bench.spooled() == [[2]]


# ---- a disk that fails or hangs ------------------------------------------------------------------------------------


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_full_disk_is_reported_until_it_accepts_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, told = Bench(tmp_path), []
    bench.batcher._on_trouble = lambda: told.append(bench.batcher.trouble)
    monkeypatch.setattr("agent.delivery.batcher.RETRY", 0.02)
    monkeypatch.setattr("agent.delivery.batcher.WINDOW", 0.001)
    task = asyncio.create_task(bench.batcher.run())
    with monkeypatch.context() as broken:
        broken.setattr(bench.spool, "store", full)
        bench.add(1, 2)
        await bench.until(lambda: told)
    await bench.until(lambda: bench.spooled() == [[1, 2]])
    assert told == ["results cannot be written to disk: No space left on device", None]
    assert bench.spool.counters.dropped_results == 0
    task.cancel()


async def test_results_that_cannot_be_written_on_close_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(bench.spool, "store", full)
    bench.add(1, 2, 3)
    await bench.batcher.close()
    assert bench.spool.counters.dropped_results == 3
    assert "3 results are lost: results cannot be written to disk: No space left on device" in caplog.text


async def test_results_beyond_the_memory_limit_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(bench.spool, "store", full)
    bench.add(*range(5_007))
    assert bench.spool.counters.dropped_results == 7
    await bench.batcher.close()
    assert bench.spool.counters.dropped_results == 5_007


@pytest.mark.parametrize("under_way", [False, True])
async def test_hanging_disk_does_not_keep_the_agent_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, under_way: bool
) -> None:
    bench, released = Bench(tmp_path), threading.Event()
    store = bench.spool.store

    def hang(number: int, batch: Batched) -> int:
        released.wait(30)
        return store(number, batch)

    monkeypatch.setattr(bench.spool, "store", hang)
    bench.add(1)
    if under_way:
        flushing = asyncio.create_task(bench.batcher.flush())
        await asyncio.sleep(0)
        flushing.cancel()
    began = time.monotonic()
    try:
        await bench.batcher.close(within=0.1)
        assert time.monotonic() - began < 5
        assert "the disk does not answer" in caplog.text
    finally:
        released.set()
    await bench.until(lambda: bench.spooled() == [[1]])


async def test_batch_is_written_even_if_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bench.add(1)
    with monkeypatch.context() as full_table:
        full_table.setattr(threading.Thread, "start", start)
        assert await bench.batcher.flush()
    assert bench.spooled() == [[1]]

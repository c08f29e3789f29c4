"""Test delivery: oldest first, a few at a time, again until acknowledged, and without blocking later batches."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.delivery import sender as module
from agent.delivery.sender import IN_FLIGHT, Sender
from agent.delivery.spool import Batched, Spool
from agent.delivery.ulid import new_ulid
from agent.metrics import AgentCounters
from runtime.mqtt.session import NotConnected, PublishRefused
from schema.messages import BatchCommitted, BatchRefused, Rejection
from testbed.waiting import wait_until


class Wire:
    """Records published batches; the connection can be interrupted."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.ready = asyncio.Event()
        self.ready.set()
        self.error: Exception | None = None

    async def wait_ready(self) -> None:
        await self.ready.wait()

    async def publish_batch(self, batch: Batched) -> None:
        if self.error is not None:
            raise self.error
        self.published.append(batch.id)


class Bench:
    def __init__(self, path: Path, ack_timeout: float, rest: float, overtaken: float) -> None:
        self.spool = Spool(path / "spool", max_bytes=10**6, max_age=3600)
        self.wire, self.counters = Wire(), AgentCounters()
        self.sent: list[int] = []
        self.sender = Sender(
            self.spool,
            self.wire,
            self.counters,
            self.sent.append,
            lambda: None,
            ack_timeout=ack_timeout,
            overtaken=overtaken,
            shortest_rest=rest,
        )

    def add(self, count: int = 1) -> list[str]:
        made = []
        for _ in range(count):
            batch = Batched(id=new_ulid(time.time_ns()), results=1, created=int(time.time()), payload=b"x")
            number = self.spool.reserve()
            self.spool.admit(number, self.spool.store(number, batch), time.time())
            made.append(batch.id)
        self.sender.wake()
        return made

    def commit(self, batch: str, *rejected: Rejection) -> None:
        self.sender.acknowledge(BatchCommitted(batch=batch, stored=1, rejected=list(rejected)))

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:
        await wait_until(condition, lambda: str(self.wire.published), within=timeout)


@asynccontextmanager
async def running(
    path: Path, ack_timeout: float = 30.0, rest: float = 0.01, overtaken: float = 30.0
) -> AsyncIterator[Bench]:
    bench = Bench(path, ack_timeout, rest, overtaken)
    task = asyncio.create_task(bench.sender.run())
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_few_batches_are_in_flight_and_the_oldest_go_first(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        made = bench.add(10)
        await bench.until(lambda: len(bench.wire.published) == IN_FLIGHT)
        await asyncio.sleep(0.05)  # only waiting can show that no more is sent
        assert bench.wire.published == made[:IN_FLIGHT]
        bench.commit(made[1])
        await bench.until(lambda: len(bench.wire.published) == IN_FLIGHT + 1)
        assert bench.wire.published[-1] == made[IN_FLIGHT]
        assert len(bench.spool) == 9


async def test_acknowledged_batches_leave_the_spool(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        made = bench.add(30)
        acknowledged = 0
        while acknowledged < 30:
            await bench.until(lambda seen=acknowledged: len(bench.wire.published) > seen)
            for batch in bench.wire.published[acknowledged:]:
                bench.commit(batch)
                acknowledged += 1
        assert bench.wire.published == made
        assert len(bench.spool) == 0
        assert bench.counters.batches_committed == 30
        assert len(bench.sent) == 30


async def test_unacknowledged_batch_is_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path, ack_timeout=0.01) as bench:
        (batch,) = bench.add()
        await bench.until(lambda: bench.wire.published.count(batch) >= 2)
        assert len(bench.spool) == 1
        bench.commit(batch)
        assert len(bench.spool) == 0


async def test_unacknowledged_batches_do_not_block_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, ack_timeout=0.01) as bench:
        stuck = bench.add(IN_FLIGHT)
        others = bench.add(5)
        for batch in others:
            await bench.until(lambda batch=batch: batch in bench.wire.published)
            bench.commit(batch)
        assert [bench.spool.read(number).id for number in bench.spool] == stuck  # type: ignore[union-attr]
        bench.commit(stuck[0])
        assert len(bench.spool) == IN_FLIGHT - 1, "a late acknowledgement counts, too"
        await asyncio.sleep(0.05)
        assert max(map(bench.wire.published.count, stuck)) <= module.ATTEMPTS, "they wait for their turn"


async def test_acknowledgement_after_a_long_silence_resumes_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONG_SILENCE", 0.0)
    async with running(tmp_path, ack_timeout=0.01) as bench:
        made = bench.add(6)
        await bench.until(lambda: all(bench.wire.published.count(batch) == module.ATTEMPTS for batch in made))
        bench.commit(made[5])
        await bench.until(lambda: all(bench.wire.published.count(batch) > module.ATTEMPTS for batch in made[:4]))


async def test_postponed_batch_is_retried_at_growing_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATER", 0.05)
    async with running(tmp_path, ack_timeout=0.01) as bench:
        (stuck,) = bench.add()
        seen = []
        for turns in range(1, 4):
            await bench.until(lambda turns=turns: bench.wire.published.count(stuck) >= turns * module.ATTEMPTS)
            seen.append(time.monotonic())
        assert 0.05 < seen[1] - seen[0] < seen[2] - seen[1]
        bench.commit(stuck)
        assert len(bench.spool) == 0


async def test_refused_batch_is_set_aside(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        (batch,) = bench.add()
        await bench.until(lambda: bench.wire.published)
        bench.sender.acknowledge(BatchRefused(batch=batch, reason="unknown version"))
        assert (len(bench.spool), bench.spool.counters.set_aside) == (0, 1)
        (another,) = bench.add()
        await bench.until(lambda: another in bench.wire.published)


async def test_acknowledgements_of_unknown_batches_change_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        (batch,) = bench.add()
        await bench.until(lambda: bench.wire.published)
        for strange in ("", "x" * 26, new_ulid(0)):
            bench.commit(strange)
            bench.sender.acknowledge(BatchRefused(batch=strange, reason="?"))
        bench.commit(batch)
        bench.commit(batch)
        assert (len(bench.spool), bench.counters.batches_committed) == (0, 1)


async def test_rejected_results_are_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        (batch,) = bench.add()
        await bench.until(lambda: bench.wire.published)
        bench.commit(batch, Rejection(index=0, server_id=5, reason="no such server"))
        assert (len(bench.spool), bench.counters.results_rejected) == (0, 1)


@pytest.mark.parametrize("error", [NotConnected("gone"), PublishRefused("not allowed")])
async def test_failed_publish_is_retried_and_not_counted_as_sent(tmp_path: Path, error: Exception) -> None:
    async with running(tmp_path) as bench:
        bench.wire.error = error
        (batch,) = bench.add()
        await asyncio.sleep(0.05)
        assert bench.sent == []
        bench.wire.error = None
        await bench.until(lambda: bench.wire.published == [batch])


async def test_nothing_is_published_without_a_connection(tmp_path: Path) -> None:
    async with running(tmp_path, ack_timeout=0.01) as bench:
        bench.wire.ready.clear()
        (batch,) = bench.add()
        await asyncio.sleep(0.05)
        assert bench.wire.published == []
        bench.wire.ready.set()
        await bench.until(lambda: batch in bench.wire.published)


async def test_batches_in_flight_are_resent_at_once_after_a_lost_session(tmp_path: Path) -> None:
    async with running(tmp_path, ack_timeout=30.0, rest=30.0) as bench:
        (batch,) = bench.add()
        await bench.until(lambda: bench.wire.published)
        bench.sender.send_again()
        await bench.until(lambda: bench.wire.published == [batch, batch])


async def test_batch_overtaken_by_a_later_acknowledgement_is_resent(tmp_path: Path) -> None:
    async with running(tmp_path, overtaken=0.01) as bench:
        first, second, third = bench.add(3)
        await bench.until(lambda: len(bench.wire.published) == 3)
        bench.commit(second)
        await bench.until(lambda: bench.wire.published.count(first) > 1)
        assert bench.wire.published.count(third) == 1, "it was sent after the one that was acknowledged"
        bench.commit(first)
        assert len(bench.spool) == 1


async def test_acknowledgement_of_a_later_batch_never_lengthens_a_wait(tmp_path: Path) -> None:
    async with running(tmp_path, ack_timeout=0.05, overtaken=30.0) as bench:
        first, second = bench.add(2)
        await bench.until(lambda: len(bench.wire.published) == 2)
        bench.commit(second)
        await bench.until(lambda: bench.wire.published.count(first) > 1)


async def test_batch_with_a_missing_file_is_skipped(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        first, second = bench.add(2)
        for number in list(bench.spool)[:1]:
            (tmp_path / "spool" / f"{number:012d}").unlink()
        await bench.until(lambda: second in bench.wire.published)
        assert first not in bench.wire.published
        assert len(bench.spool) == 1


async def test_temporarily_unreadable_batch_is_sent_later_and_blocks_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATER", 0.05)
    async with running(tmp_path) as bench:
        read, broken = bench.spool.read, True

        def some(number: int) -> Batched | None:
            if broken and number == 1:
                raise OSError(24, "Too many open files")
            return read(number)

        monkeypatch.setattr(bench.spool, "read", some)
        first, second = bench.add(2)
        await bench.until(lambda: second in bench.wire.published)
        assert first not in bench.wire.published
        broken = False
        await bench.until(lambda: first in bench.wire.published)


async def test_nothing_is_remembered_of_a_batch_that_has_left_the_spool(tmp_path: Path) -> None:
    """Otherwise batches that have left would eventually keep others from being postponed."""
    async with running(tmp_path, ack_timeout=0.001, rest=0.001) as bench:
        (batch,) = bench.add()
        await bench.until(lambda: bench.sender._later)
        bench.commit(batch)
        assert (bench.sender._later, bench.sender._put_off, bench.sender._numbers) == ({}, {}, {})
        assert len(bench.spool) == 0

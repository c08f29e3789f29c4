"""Test ingest as a process that is stopped or killed while monitors send: nothing is lost or counted twice."""

import asyncio
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from ulid import ULID

from runtime.mqtt.session import NotConnected
from schema.messages import Batch, BatchCommitted, Result
from schema.tables import log_scores, result_batches, server_scores
from testbed.fixtures.batches import new_batch
from testbed.fixtures.broker import Broker
from testbed.fixtures.running_ingest import TestMonitor, connected_monitor
from testbed.fixtures.worker_process import WorkerProcess, worker_settings, write_key
from testbed.fixtures.world import add_monitor, add_pair, add_server
from testbed.waiting import block_until

BATCHES, RESULTS = 150, 5


def start(ingest: WorkerProcess) -> None:
    ingest.start().wait_for_log("connected to")


async def send_until_acknowledged(monitor: TestMonitor, batches: list[Batch]) -> dict[str, BatchCommitted]:
    """Send batches as an agent does: a few at a time, and again until they are acknowledged."""
    acks: dict[str, BatchCommitted] = {}
    missing = {batch.id: batch for batch in batches}
    while missing:
        some = list(missing.values())[:10]
        for batch in some:
            with suppress(NotConnected):
                await monitor.send(batch)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                for _ in some:
                    ack = await monitor.answer()
                    assert isinstance(ack, BatchCommitted)
                    assert acks.setdefault(ack.batch, ack) == ack, "asked again, it answers the same"
                    missing.pop(ack.batch, None)
    return acks


async def test_a_stopped_and_a_killed_ingest_lose_no_result_and_count_none_twice(
    engine: Engine, broker: Broker, tmp_path: Path
) -> None:
    name = f"m{ULID()}.test.mon.example".lower()
    with engine.begin() as connection:
        monitor_id = add_monitor(connection, name)
        ips = [f"192.0.2.{i}" for i in range(1, RESULTS + 1)]
        servers = [add_server(connection, ip) for ip in ips]
        for server_id in servers:
            add_pair(connection, server_id, monitor_id)

    def batch(number: int) -> Batch:
        fields = {
            "ts": datetime.now(UTC) - timedelta(seconds=540) * number,
            "offset": 0.001,
            "rtt": 0.02,
            "stratum": 2,
            "sent": 1,
            "received": 1,
        }
        return new_batch(*(Result(server_id=s, ip=ip, **fields) for s, ip in zip(servers, ips, strict=True)))

    batches = [batch(number) for number in range(BATCHES)]
    settings = worker_settings(broker, write_key(tmp_path, broker), engine.url)
    ingest = WorkerProcess(tmp_path, "test", "ingest", **settings)
    await asyncio.to_thread(start, ingest)
    try:
        async with connected_monitor(broker, name) as monitor, asyncio.timeout(90):
            sending = asyncio.create_task(send_until_acknowledged(monitor, batches))
            for stored, number in ((150, signal.SIGTERM), (300, signal.SIGKILL), (450, signal.SIGKILL)):
                await asyncio.to_thread(wait_for_rows, engine, stored)
                seconds = await asyncio.to_thread(ingest.ends_after, number)
                if number == signal.SIGTERM:
                    assert (ingest.process.returncode, seconds < 5) == (0, True), ingest.log_text()
                await asyncio.to_thread(start, ingest)
            acks = await sending
    finally:
        ingest.ends_after(signal.SIGTERM)
    assert set(acks) == {batch.id for batch in batches}
    assert all(ack.stored == RESULTS and not ack.rejected for ack in acks.values())
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(result_batches)) == BATCHES
        assert connection.scalar(sa.select(sa.func.count()).select_from(log_scores)) == BATCHES * RESULTS
        scores = set(connection.scalars(sa.select(server_scores.c.score_raw)))
    assert list(scores) == pytest.approx([20 * (1 - 0.95**BATCHES)])


def wait_for_rows(engine: Engine, count: int) -> None:
    def found() -> int:
        with engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(log_scores)) or 0

    block_until(lambda: found() >= count, lambda: f"{count} rows; there are {found()}")

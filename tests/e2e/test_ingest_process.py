"""Ingest as a process that is stopped, or killed, while monitors send: nothing is lost, nothing counts twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
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
from testbed.fixtures.world import add_monitor, add_pair, add_server
from testbed.waiting import PATIENCE, block_until

BATCHES, RESULTS = 150, 5


class Ingest:
    """``ntppool-monitor ingest``, started again and again."""

    def __init__(self, directory: Path, broker: Broker, engine: Engine) -> None:
        key = directory / "jwt.key"
        key.write_text(broker.key.verification_text())
        key.chmod(0o600)
        given = {
            "MQTT_HOST": "127.0.0.1",
            "MQTT_PORT": str(broker.port),
            "JWT_KEY_FILE": str(key),
            "DATABASE_DSN": engine.url.render_as_string(hide_password=False),
        }
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("MQTT_", "JWT_", "DATABASE_"))
        }
        self._environment = {**kept, **given}
        self._log = directory / "ingest.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as out:
            command = [sys.executable, "-m", "ops", "--env", "test", "ingest"]
            self._process = process = subprocess.Popen(command, env=self._environment, stdout=out, stderr=out)
        block_until(lambda: "connected to" in self._log.read_text() or process.poll() is not None, self._log.read_text)
        assert process.poll() is None, self._log.read_text()

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Its exit status, and the seconds it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(number)
        return self._process.wait(PATIENCE), time.monotonic() - began

    def log_text(self) -> str:
        return self._log.read_text()


async def send_until_acknowledged(monitor: TestMonitor, batches: list[Batch]) -> dict[str, BatchCommitted]:
    """What an agent does with its spool: sends a few at a time, and again what was not answered."""
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_nothing_is_lost_and_nothing_counts_twice(
    number: signal.Signals, engine: Engine, broker: Broker, tmp_path: Path
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
    ingest = Ingest(tmp_path, broker, engine)
    await asyncio.to_thread(ingest.start)
    try:
        async with connected_monitor(broker, name) as monitor, asyncio.timeout(90):
            sending = asyncio.create_task(send_until_acknowledged(monitor, batches))
            for stored in (200, 400):
                await asyncio.to_thread(wait_for_rows, engine, stored)
                status, seconds = await asyncio.to_thread(ingest.end, number)
                if number == signal.SIGTERM:
                    assert (status, seconds < 5) == (0, True), ingest.log_text()
                await asyncio.to_thread(ingest.start)
            acks = await sending
    finally:
        ingest.end(signal.SIGTERM)
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

"""Test the load generator with a real broker and ingest: everything it sends is answered, and the checker agrees."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.engine import Engine

from runtime.db.engine import reading, utc_now
from runtime.db.system_settings import Intervals
from schema.messages import BatchCommitted, BatchRefused
from schema.tables import rejected_messages, system_settings
from scorer.rounds import score_due
from scorer.scorers import all_scorers
from scorer.worker import add_missing_scorers
from testbed.checker.check import Checked, check
from testbed.checker.load import read_attempts
from testbed.fixtures.broker import Broker
from testbed.fixtures.running_ingest import running_ingest
from testbed.fixtures.world import add_monitor, add_pair, add_server
from testbed.load.generator import Generator
from testbed.load.record import Record, Sent, histories, read_lines
from testbed.load.spec import LoadSpec, Member, Shares, Target
from testbed.waiting import wait_until

SERVERS = 25
EACH_SECOND = Intervals(interval_active=1.0)


def members(engine: Engine, count: int) -> list[Member]:
    """Add monitors and servers to the ledger, with all pairs."""
    each_second = {"key": "monitors", "value": msgspec.json.encode(EACH_SECOND).decode(), "created_on": utc_now()}
    unique = f"{random.getrandbits(40):x}"  # since the broker of the test session remembers names
    with engine.begin() as connection:
        connection.execute(system_settings.insert().values(each_second))
        ids = [add_monitor(connection, f"load{n}-{unique}.test.mon.example") for n in range(count)]
        ips = [f"172.16.0.{n + 1}" for n in range(SERVERS)]
        targets = [Target(add_server(connection, ip), ip, 1.0 + n % 3) for n, ip in enumerate(ips)]
        for target in targets:
            for monitor_id in ids:
                add_pair(connection, target.server_id, monitor_id)
    return [Member(name=f"load{n}-{unique}.test.mon.example", targets=targets) for n in range(count)]


def spec_for(broker: Broker, found: list[Member], record: Path, **given: Any) -> LoadSpec:
    address = {"env": "test", "host": "127.0.0.1", "port": broker.port, "key_file": Path("unused")}
    return LoadSpec(**address, record=record, members=found, drain=20.0, **given)


async def load(broker: Broker, spec: LoadSpec, when: Callable[[Generator], bool]) -> bool:
    """Run until ``when`` is true; return whether everything was acknowledged."""
    stop = asyncio.Event()
    with Record(spec.record) as record:
        generator = Generator(spec, broker.key, record)
        running = asyncio.create_task(generator.run(stop))
        async with asyncio.timeout(40):
            await wait_until(lambda: when(generator) or running.done())
            stop.set()
            return await running


def made_at(ulid: str) -> int:
    """Return the ULID's time, in ms since 1970."""
    found = 0
    for character in ulid[:10]:
        found = found * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    return found


def verdict(engine: Engine, record: Path) -> Checked:
    add_missing_scorers(engine, all_scorers())
    while score_due(engine, all_scorers(), EACH_SECOND, utc_now(), 100).claimed:
        pass
    with reading(engine) as connection:
        attempts = read_attempts(connection, record)
    return check(engine, attempts=attempts, env="test")


@pytest.mark.parametrize("on_disk", [False, True])
async def test_every_batch_is_answered_and_the_ledger_agrees(
    server_engine: Engine, broker: Broker, tmp_path: Path, on_disk: bool
) -> None:
    shares = Shares(bad=0.2, late=0.2, duplicate=0.2, malformed=0.2)
    spools = tmp_path / "spools" if on_disk else None
    record = tmp_path / "record"
    found = await asyncio.to_thread(members, server_engine, 4)
    spec = spec_for(broker, found, record, rate=400.0, batch=5, shares=shares, spools=spools)
    async with running_ingest(server_engine, broker):
        assert await load(broker, spec, lambda _: record.stat().st_size > 120_000)
    all_batches = list(histories(read_lines(record)).values())
    kinds = Counter(history.sent.kind for history in all_batches)
    assert set(kinds) == {"plain", "bad", "late", "duplicate", "malformed"}
    assert all(history.answers for history in all_batches)
    refused = {history.sent.kind for history in all_batches if isinstance(history.answers[0].ack, BatchRefused)}
    assert refused == {"malformed"}
    assert any(len(history.answers) > 1 for history in all_batches if history.sent.kind == "duplicate")
    checked = await asyncio.to_thread(verdict, server_engine, record)
    assert checked.differences == ()
    assert checked.rows == sum(
        history.answers[0].ack.stored for history in all_batches if isinstance(history.answers[0].ack, BatchCommitted)
    )
    with reading(server_engine) as connection:
        assert connection.execute(rejected_messages.select()).first() is not None


async def test_number_of_unacknowledged_batches_is_limited(
    server_engine: Engine, broker: Broker, tmp_path: Path
) -> None:
    record, most = tmp_path / "record", 0
    found = await asyncio.to_thread(members, server_engine, 3)
    spec = spec_for(broker, found, record, outstanding=12, seconds=1.0)

    def look(generator: Generator) -> bool:
        nonlocal most
        most = max(most, generator.left)
        return False

    async with running_ingest(server_engine, broker):
        assert await load(broker, spec, look)
    assert 2 <= most <= 12
    assert (await asyncio.to_thread(verdict, server_engine, record)).differences == ()


async def test_batches_made_ahead_are_sent_first_and_count_like_the_rest(
    server_engine: Engine, broker: Broker, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    found = await asyncio.to_thread(members, server_engine, 3)
    shares = Shares(bad=0.3, duplicate=0.3)
    spec = spec_for(broker, found, record, outstanding=12, ahead=5, seconds=30.0, shares=shares)

    def all_have_sent_more(_: Generator) -> bool:
        if not record.exists():
            return False
        sent = Counter(line.monitor for line in read_lines(record) if isinstance(line, Sent))
        return len(sent) == len(found) and min(sent.values()) > 10

    async with running_ingest(server_engine, broker):
        assert await load(broker, spec, all_have_sent_more)
    sent = [history.sent for history in histories(read_lines(record)).values()]
    first_sent = min(line.at for line in sent) // 1_000_000
    for member in found:
        made = [made_at(line.batch) for line in sent if line.monitor == member.name]
        assert len(made) > 5
        assert max(made[:5]) <= first_sent <= min(made[5:])
    assert (await asyncio.to_thread(verdict, server_engine, record)).differences == ()


async def test_batch_is_sent_again_until_it_is_answered(server_engine: Engine, broker: Broker, tmp_path: Path) -> None:
    record = tmp_path / "record"
    found = await asyncio.to_thread(members, server_engine, 2)
    # A low rate without a time limit, so that the number of waiting batches does not depend on the start of ingest.
    spec = spec_for(broker, found, record, rate=20.0, batch=5, ack_timeout=0.2)
    some_wait, somebody_listens = asyncio.Event(), asyncio.Event()

    def enough(generator: Generator) -> bool:
        if generator.left >= 2:
            some_wait.set()
        return somebody_listens.is_set()

    loading = asyncio.create_task(load(broker, spec, enough))
    async with asyncio.timeout(20):
        await some_wait.wait()
    async with running_ingest(server_engine, broker):
        somebody_listens.set()
        assert await loading
    checked = await asyncio.to_thread(verdict, server_engine, record)
    assert checked.differences == ()
    assert checked.rows >= 2 * 5

"""Test revocations from the ledger to the broker: what every database says, and what happens to a monitor."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from pydantic import SecretStr
from sqlalchemy.engine import Connection, Engine

from api.revocation_store import KeyLife, read_revoked
from api.revocations import MARGIN, REVOCATIONS_EVERY, WITHIN, find_revocations, revocations_job
from auth.api_key_store import add_key, replace_keys, revoke_key
from auth.api_keys import generate
from auth.tokens import Role
from ops.monitors import change_monitor
from runtime.db.engine import reading, to_db, transaction
from runtime.settings import WorkerSettings
from runtime.telemetry import Telemetry
from runtime.worker import Worker, assemble
from schema.tables import api_keys, api_keys_monitors, certificates, monitors
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Refused
from testbed.fixtures.registering import PEPPERS
from testbed.fixtures.strict_broker import StrictBroker
from testbed.fixtures.world import add_monitor, monitor_name
from testbed.waiting import PATIENCE, waited_for_cpu

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
SINCE = to_db(NOW - WITHIN)
HOUR = timedelta(hours=1)
LIMIT = 10.0
"""Maximum seconds from a revocation in the ledger to the end of the connection."""


# --- the ledger ---------------------------------------------------------------------------------------


def host(connection: Connection, short: str, *ipvs: str) -> list[int]:
    """Add a monitor, and return the ids of its protocols."""
    return [add_monitor(connection, monitor_name(short), ipv) for ipv in ipvs or ("v4",)]  # type: ignore[arg-type]


def new_key(connection: Connection, ids: list[int], now: datetime = NOW - 9 * HOUR) -> int:
    return add_key(connection, PEPPERS, now, account_id=None, monitor_ids=ids)[0]


def delete(connection: Connection, monitor_id: int, now: datetime) -> None:
    values = {"status": "deleted", "deleted_on": to_db(now), "is_current": None}
    connection.execute(sa.update(monitors).where(monitors.c.id == monitor_id).values(values))


def certify(
    connection: Connection, short: str, *, revoked: datetime | None, kind: str = "monitor", days: int = 9
) -> None:
    row = {
        "serial": generate().lookup[5:],
        "kind": kind,
        "name": monitor_name(short),
        "request_hash": "",
        "chain": "",
        "not_before": to_db(NOW - timedelta(days=9)),
        "not_after": to_db(NOW + timedelta(days=days)),
        "issued_on": to_db(NOW - timedelta(days=9)),
        "revoked_on": None if revoked is None else to_db(revoked),
    }
    connection.execute(sa.insert(certificates).values(row))


def fill(connection: Connection) -> None:
    """Add a monitor for each case; the names of those that are to be revoked begin with ``yes``."""
    for short, ended in (("yes1-a", NOW - HOUR), ("no1-old", NOW - 8 * HOUR)):
        revoke_key(connection, new_key(connection, host(connection, short, "v4", "v6")), ended)
    revoke_key(connection, new_key(connection, host(connection, "yes2-aside")), NOW - HOUR, "its monitor was set aside")
    replace_keys(connection, [new_key(connection, host(connection, "no2-replaced"))], NOW - HOUR)
    ids = host(connection, "no3-another")
    revoke_key(connection, new_key(connection, ids), NOW - HOUR)
    new_key(connection, ids)
    ids = host(connection, "yes3-later")
    revoke_key(connection, new_key(connection, ids), NOW - HOUR)
    new_key(connection, ids, NOW)
    # One protocol has another key, which is as good for the name.
    both = host(connection, "no4-protocols", "v4", "v6")
    revoke_key(connection, new_key(connection, both[:1]), NOW - HOUR)
    new_key(connection, both[1:])
    # A key of another program gives no tokens.
    ids = host(connection, "yes4-foreign")
    revoke_key(connection, new_key(connection, ids), NOW - HOUR)
    row = {"audience": "monitor", "token_lookup": "x", "token_hashed": "y", "created_on": to_db(NOW - 9 * HOUR)}
    done = connection.execute(sa.insert(api_keys).values(row)).inserted_primary_key
    assert done is not None
    connection.execute(sa.insert(api_keys_monitors).values(api_key_id=done[0], monitor_id=ids[0]))
    first, second = host(connection, "yes5-deleted", "v4", "v6")
    delete(connection, first, NOW - 3 * HOUR)
    delete(connection, second, NOW - 2 * HOUR)
    first, _ = host(connection, "no5-half", "v4", "v6")
    delete(connection, first, NOW - HOUR)
    delete(connection, host(connection, "no6-long-ago")[0], NOW - 8 * HOUR)
    certify(connection, "yes6-certificate", revoked=NOW - 2 * HOUR)
    certify(connection, "yes6-certificate", revoked=NOW - HOUR)
    certify(connection, "yes6-certificate", revoked=None)
    certify(connection, "no7-valid", revoked=None)
    certify(connection, "no8-old", revoked=NOW - 8 * HOUR)
    certify(connection, "no9-ended", revoked=NOW - HOUR, days=-1)
    certify(connection, "no10-server", revoked=NOW - HOUR, kind="server")


def test_ledger_says_whose_tokens_are_revoked(engine: Engine) -> None:
    transaction(engine, fill)
    with reading(engine) as connection:
        revoked = read_revoked(connection, SINCE)
    expected = {"yes1-a": HOUR, "yes2-aside": HOUR, "yes3-later": HOUR, "yes4-foreign": HOUR}
    expected |= {"yes5-deleted": 2 * HOUR, "yes6-certificate": HOUR}
    assert {one.name: one.until for one in find_revocations(revoked, SINCE)} == {
        monitor_name(short): NOW - ago + MARGIN for short, ago in expected.items()
    }
    life = KeyLife(to_db(NOW - 9 * HOUR), to_db(NOW - HOUR), True)
    assert revoked.keys[monitor_name("yes1-a")] == [life], "a key of two protocols counts once"


# --- from the ledger to the monitor -------------------------------------------------------------------


@pytest.fixture
def strict() -> Iterator[StrictBroker]:
    with StrictBroker() as running:
        yield running


@asynccontextmanager
async def running_job(engine: Engine, broker: Broker) -> AsyncIterator[Worker]:
    """Run the job as the API does, over plain TCP; yield when it is connected."""
    settings = WorkerSettings(
        deployment_mode="test",
        mqtt_host="127.0.0.1",
        mqtt_port=broker.port,
        database_dsn=SecretStr(engine.url.render_as_string(hide_password=False)),
    )
    metrics = Telemetry(NoOpMeter("test"), NoOpTracer())
    worker = assemble("api", settings, lambda: broker.token(Role.SERVER, "api"), metrics)
    worker.jobs.add("revocations", REVOCATIONS_EVERY, revocations_job(worker))
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(worker.jobs.run()), tasks.create_task(worker.broker.run())]
            async with asyncio.timeout(PATIENCE):
                await worker.broker.wait_ready()
            yield worker
            for task in running:
                task.cancel()
    finally:
        worker.engine.dispose()


def is_refused(client: MqttClient) -> bool:
    try:
        client.connect().close()
    except Refused:
        return True
    return False


async def test_revoked_and_deleted_monitors_are_disconnected_and_one_with_a_new_key_returns(
    sqlite_engine: Engine, strict: StrictBroker
) -> None:
    shorts = ("revoked1-x", "deleted1-x", "stays1-x")
    names = [monitor_name(short, "test") for short in shorts]
    ids = [transaction(sqlite_engine, lambda c, name=name: add_monitor(c, name)) for name in names]
    keys = [transaction(sqlite_engine, lambda c, id_=id_: new_key(c, [id_])) for id_ in ids]
    clients = [strict.client(strict.issue(name), name) for name in names]
    revoked, deleted, stays = clients

    def change(connection: Connection) -> None:
        revoke_key(connection, keys[0], datetime.now(UTC))
        change_monitor(connection, names[1], "delete", to_db(datetime.now(UTC)))

    assert strict.process.process is not None
    pids = [strict.process.process.pid, os.getpid()]
    async with running_job(sqlite_engine, strict):
        for client in clients:
            await asyncio.to_thread(client.connect)
        waited, began = waited_for_cpu(pids), time.monotonic()
        transaction(sqlite_engine, change)
        for client in (revoked, deleted):
            await asyncio.to_thread(client.wait_lost)
        assert time.monotonic() - began - (waited_for_cpu(pids) - waited) < LIMIT
        for client in (revoked, deleted):
            assert await asyncio.to_thread(is_refused, client)
        assert await asyncio.to_thread(stays.is_alive)
        transaction(sqlite_engine, lambda c: new_key(c, ids[:1], datetime.now(UTC)))
        later = datetime.now(UTC) + MARGIN + timedelta(seconds=2)
        back = strict.client(strict.issue(names[0]), names[0], now=later)
        assert not await asyncio.to_thread(is_refused, back)
        # The job has found both again in the meantime, and sends neither.
        strict.restart()
        assert await asyncio.to_thread(is_refused, revoked)
        assert not await asyncio.to_thread(is_refused, back)
    stays.close()
    assert strict.log_text().count("are revoked, by api") == 2

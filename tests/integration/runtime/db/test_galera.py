"""Test the ledger on a real Galera cluster: nodes that fail, conflicts between nodes, and reads on another node.

``scripts/bootstrap --galera`` is needed; ``scripts/faults --galera`` breaks the whole system on such a cluster.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from sqlalchemy.engine import Connection, Engine

import auth.certificates
from auth.ca.files import FileAuthority
from auth.ca.request import parse_request
from auth.certificates import NoSuchMonitor, issue_to_monitor
from auth.deletion import delete_monitors
from ingest.transaction import commit
from runtime import worker as runtime_worker
from runtime.db.dsn import dsn_text
from runtime.db.engine import open_database, reading, to_db, transaction
from runtime.db.migrate import upgrade
from runtime.db.queue import SCORING
from runtime.db.system_settings import Intervals
from runtime.retry import Delays
from runtime.settings import WorkerSettings
from runtime.telemetry import Telemetry
from runtime.worker import Worker, assemble
from schema.tables import api_keys, certificates, log_scores, metadata, monitors, servers
from scorer import rounds
from scorer.rounds import score_due
from scorer.scorers import all_scorers
from scorer.worker import add_missing_scorers
from testbed.fixtures.batches import ARRIVED, new_result, new_submission
from testbed.fixtures.certificates import request_pem
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, monitor_name
from testbed.galera import GaleraCluster, several, start_together
from testbed.waiting import PATIENCE

NAME = "ledger"
ALICE = monitor_name("alice")


@pytest.fixture(scope="module")
def _engines(cluster: GaleraCluster) -> Iterator[list[Engine]]:
    cluster.create(NAME)
    made = [open_database(node.url(NAME)) for node in cluster.nodes]
    upgrade(made[0])
    yield made
    for engine in made:
        engine.dispose()


@pytest.fixture
def engines(_engines: list[Engine]) -> list[Engine]:
    """An engine for each node, with an empty ledger."""
    with _engines[0].begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    return _engines


@pytest.fixture
def worker(cluster: GaleraCluster, engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that knows all nodes."""
    monkeypatch.setattr(runtime_worker, "DATABASE_DELAYS", Delays(0.1, 0.1))
    url = several([node.url(NAME) for node in cluster.nodes])
    given = WorkerSettings(database_dsn=dsn_text(url, hide_password=False))  # type: ignore[arg-type]  # it converts
    made = assemble("scorer", given, lambda: "", Telemetry(NoOpMeter("test"), NoOpTracer()))
    yield made
    made.engine.dispose()


# ---- nodes that fail -------------------------------------------------------------------------------------------------


def _add(engine: Engine) -> str:
    """Add a server, and return the label of the node."""

    def work(connection: Connection) -> str:
        add_server(connection)
        return str(connection.scalar(sa.text("SELECT @@wsrep_node_name")))

    return transaction(engine, work)


def _servers(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(servers)) or 0)


async def _work(worker: Worker) -> str:
    async with asyncio.timeout(PATIENCE):
        return await worker.in_database(lambda: _add(worker.engine))


async def test_worker_survives_the_kill_of_its_node(
    cluster: GaleraCluster, engines: list[Engine], worker: Worker
) -> None:
    first = cluster.nodes[0]
    assert await _work(worker) == first.label
    first.stop(kill=True)
    try:
        assert await _work(worker) == "node 2"
    finally:
        first.start()  # in this thread, with which it ends
    assert await _work(worker) == "node 2", "it works, so there is no reason to move"
    assert {await asyncio.to_thread(_servers, engine) for engine in engines} == {3}
    assert "[Note] WSREP: Receiving IST" in (first.directory / "log").read_text(), "a copy of all data costs minutes"


async def test_worker_leaves_a_node_that_is_cut_off_from_the_majority(cluster: GaleraCluster, worker: Worker) -> None:
    first = cluster.nodes[0]
    assert await _work(worker) == first.label
    await asyncio.to_thread(first.isolate, True)
    try:
        assert await _work(worker) in ("node 2", "node 3")
    finally:
        await asyncio.to_thread(first.isolate, False)
        await asyncio.to_thread(first.wait)


async def test_worker_waits_while_there_is_no_majority(
    cluster: GaleraCluster, engines: list[Engine], worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await _work(worker)
    gone = cluster.nodes[1:]
    for node in gone:
        node.stop(kill=True)
    waiting = asyncio.create_task(_work(worker))
    try:
        async with asyncio.timeout(PATIENCE):
            while "no server answers" not in caplog.text:
                await asyncio.sleep(0.05)
        assert not waiting.done()
    finally:
        start_together(gone)
    await waiting
    assert {await asyncio.to_thread(_servers, engine) for engine in engines} == {2}


# ---- reads on another node -------------------------------------------------------------------------------------------


def test_commit_is_seen_by_the_next_transaction_on_any_node(engines: list[Engine]) -> None:
    for number in range(1, 60):
        with engines[number % 3].begin() as connection:
            add_server(connection)
        assert _servers(engines[(number + 1) % 3]) == number


# ---- conflicts between nodes -----------------------------------------------------------------------------------------


def test_results_of_a_server_have_ids_in_the_order_of_their_commits(engines: list[Engine]) -> None:
    with engines[0].begin() as connection:
        monitor, server = add_monitor(connection, ALICE), add_server(connection, "192.0.2.1")
        add_pair(connection, server, monitor, score=10.0)
    ids: list[int] = []
    for number in range(30):
        submission = new_submission(ALICE, new_result(server, "192.0.2.1", age=600.0 * (30 - number)))
        commit(engines[number * 2 % 3], [submission], to_db(ARRIVED))
        with reading(engines[number % 3]) as connection:
            [new] = set(connection.scalars(sa.select(log_scores.c.id))) - set(ids)
        ids.append(new)
    assert ids == sorted(ids)


def test_batches_for_one_server_on_all_nodes_at_once_each_count_once(engines: list[Engine]) -> None:
    with engines[0].begin() as connection:
        monitor, server = add_monitor(connection, ALICE), add_server(connection, "192.0.2.1")
        add_pair(connection, server, monitor, score=10.0)
    sent = [new_submission(ALICE, new_result(server, "192.0.2.1", age=600.0 * (n + 1))) for n in range(12)]
    with ThreadPoolExecutor(6) as threads:
        # Each batch goes to two nodes, as when an agent sends it again.
        jobs = [(engines[(n + twice) % 3], one) for n, one in enumerate(sent) for twice in (0, 1)]
        list(threads.map(lambda job: commit(job[0], [job[1]], to_db(ARRIVED)), jobs))
    with reading(engines[0]) as connection:
        rows = connection.execute(sa.select(log_scores.c.step, log_scores.c.score).order_by(log_scores.c.id)).all()
    assert len(rows) == 12
    score = 10.0
    for row in rows:
        score = score * 0.95 + row.step
        assert row.score == pytest.approx(score), "each builds on the one before"


def test_scorers_on_two_nodes_that_take_the_same_server_cost_work_but_never_a_result(
    engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_missing_scorers(engines[0], all_scorers())
    with engines[0].begin() as connection:
        monitor, server = add_monitor(connection, ALICE), add_server(connection, "192.0.2.1")
        add_pair(connection, server, monitor, score=20.0)
        add_log_score(connection, server, monitor, ARRIVED - timedelta(minutes=20))
        SCORING.add(connection, [server], to_db(ARRIVED))
    write, overtaken = rounds.write_scores, iter([True])

    def overtaking(connection: Connection, *arguments: object) -> object:
        done = write(connection, *arguments)  # type: ignore[arg-type]  # passed on
        if next(overtaken, False):  # another node stores a result and scores the server between write and commit
            bad = new_result(server, "192.0.2.1", offset=3.0)
            commit(engines[1], [new_submission(ALICE, bad)], to_db(ARRIVED))
            assert score_due(engines[2], all_scorers(), Intervals(), to_db(ARRIVED), 10).claimed == 1
        return done

    monkeypatch.setattr(rounds, "write_scores", overtaking)
    score_due(engines[0], all_scorers(), Intervals(), to_db(ARRIVED), 10)
    with reading(engines[0]) as connection:
        row = connection.execute(sa.select(servers.c.score_ts, servers.c.score_raw)).one()
        newest = connection.execute(
            sa.select(log_scores.c.score).where(log_scores.c.monitor_id == monitor).order_by(log_scores.c.ts.desc())
        ).first()
    assert newest is not None
    assert (row.score_ts, row.score_raw) == (to_db(ARRIVED - timedelta(seconds=1)).replace(microsecond=0), newest[0])


def test_scorers_that_start_at_once_on_all_nodes_add_each_row_once(engines: list[Engine]) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda engine: add_missing_scorers(engine, all_scorers()), engines))
    with reading(engines[0]) as connection:
        names = connection.scalars(sa.select(monitors.c.tls_name)).all()
    assert sorted(names) == sorted(scorer.tls_name for scorer in all_scorers())


def test_monitor_deleted_on_another_node_gets_no_certificate(
    engines: list[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = FileAuthority(tmp_path / "ca", "devel")
    authority.create()
    now = datetime.now(UTC)
    with engines[0].begin() as connection:
        monitor = add_monitor(connection, ALICE)
    store, first = auth.certificates.store_certificate, iter([True])

    def deleted_meanwhile(connection: Connection, *arguments: object) -> None:
        store(connection, *arguments)  # type: ignore[arg-type]  # passed on
        if next(first, False):
            transaction(engines[1], lambda other: delete_monitors(other, [monitor], now))

    monkeypatch.setattr(auth.certificates, "store_certificate", deleted_meanwhile)
    request = parse_request(request_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(NoSuchMonitor):
        issue_to_monitor(engines[0], authority, request, ALICE, now, timedelta(days=1))
    with reading(engines[0]) as connection:
        assert connection.scalars(sa.select(certificates.c.serial)).all() == []


def test_last_protocol_that_is_deleted_on_another_node_ends_the_key(engines: list[Engine]) -> None:
    now = datetime.now(UTC)
    with engines[0].begin() as connection:
        both = [add_monitor(connection, ALICE, ipv) for ipv in ("v4", "v6")]
        row = {"audience": "monitor", "token_lookup": "x", "token_hashed": "x", "created_on": to_db(now)}
        key = connection.execute(sa.insert(api_keys).values(row)).inserted_primary_key
        assert key is not None
        links = [{"api_key_id": key[0], "monitor_id": monitor} for monitor in both]
        connection.execute(sa.insert(metadata.tables["api_keys_monitors"]), links)
    meanwhile = iter([True])

    def work(connection: Connection) -> tuple[int, ...]:
        done = delete_monitors(connection, [both[0]], now)
        if next(meanwhile, False):
            transaction(engines[1], lambda other: delete_monitors(other, [both[1]], now))
        return done.keys

    transaction(engines[0], work)
    with reading(engines[0]) as connection:
        ends = metadata.tables["api_key_ends"].c
        assert connection.scalars(sa.select(ends.api_key_id)).all() == [key[0]]

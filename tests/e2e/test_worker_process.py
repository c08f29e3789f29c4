"""Test a worker as an operator runs it: start, control commands, stop, and messages about missing dependencies."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from auth.tokens import Role
from runtime.db.dsn import parse_dsn
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from runtime.mqtt.request import RequestClient, new_key
from runtime.mqtt.session import BrokerAddress, Identity
from schema.messages import ControlAnswer, ControlCommand, decode, encode
from schema.topics import Topics
from scorer.worker import POLL
from testbed.database import SERVERS, DatabaseServer, temporary_database
from testbed.fixtures.broker import Broker
from testbed.fixtures.database import require
from testbed.fixtures.worker_process import WorkerProcess, worker_settings, write_key
from testbed.ports import free_port
from testbed.waiting import PATIENCE, block_until


def scorer(directory: Path, **settings: str) -> WorkerProcess:
    """Return a ``ntppool-monitor scorer``, the simplest worker, to test the frame of all workers."""
    return WorkerProcess(directory, "test", "scorer", **settings)


@pytest.fixture
def key_file(tmp_path: Path, broker: Broker) -> Path:
    """Return the file with the broker's key for a worker."""
    return write_key(tmp_path, broker)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """Return the DSN of a migrated ledger."""
    dsn = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = open_database(parse_dsn(dsn))
    upgrade(engine)
    engine.dispose()
    return dsn


def hang(database: DatabaseServer, engine: Engine) -> None:
    """Stop the server so that a query of the worker remains unanswered.

    If it has read a query just before it was stopped, this cannot be seen; then let it continue, and try again.
    """

    def is_asked_in_vain() -> bool:
        database.signal(signal.SIGCONT)
        engine.connect().close()
        database.signal(signal.SIGSTOP)
        return soon_unread(database.port)

    block_until(is_asked_in_vain, "somebody asks the server")


def soon_unread(port: int) -> bool:
    """Return whether a server on 127.0.0.1 soon has unread data (proc(5), net/tcp)."""
    deadline = time.monotonic() + 3 * POLL
    here = f"0100007F:{port:04X}"
    while time.monotonic() < deadline:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if any(row[1] == here and int(row[4].partition(":")[2], 16) for row in rows):
            return True
        time.sleep(0.02)
    return False


def wait_for_metric(port: int, name: str) -> None:
    """Wait until the worker exports a metric. Metrics from the database are missing until it is first queried."""

    def is_told() -> bool:
        status, metrics = fetch(port, "/metrics")
        assert status == 200
        return name in metrics

    block_until(is_told, f"the metric {name}")


async def ask(broker: Broker, payload: bytes) -> ControlAnswer:
    """Send a control command to the scorer; return its answer."""
    topics = Topics("test")
    name = "worker-process-test"
    response_topic = topics.answers(name, new_key())
    client = RequestClient(
        BrokerAddress("127.0.0.1", broker.port),
        Identity(name, name),
        lambda: broker.token(Role.ADMIN, name),
        answers=response_topic,
    )
    async with client.connected():
        answer = await client.request_one(topics.service_control("scorer"), payload, response_topic, timeout=PATIENCE)
    assert answer is not None, "the scorer does not answer"
    return decode(answer, ControlAnswer)


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_control_commands_are_answered(tmp_path: Path, broker: Broker, key_file: Path, ledger: str) -> None:
    with scorer(tmp_path, **worker_settings(broker, key_file, ledger)) as worker:
        worker.wait_for_log("connected to")
        pong = await ask(broker, encode(ControlCommand(command="ping")))
        assert (pong.ok, pong.service, pong.command) == (True, "scorer", "ping")

        unknown = await ask(broker, encode(ControlCommand(command="explode")))
        assert not unknown.ok
        assert "rescore" in unknown.message, "the answer says what is known"

        broken = await ask(broker, b'{"command": 7}')
        assert not broken.ok
        assert "JSON" in broken.message
        worker.wait_for_log("command 'ping' from worker-process-test")


async def test_worker_exits_within_5_seconds_after_sigterm(
    tmp_path: Path, broker: Broker, key_file: Path, ledger: str
) -> None:
    with scorer(tmp_path, **worker_settings(broker, key_file, ledger)) as worker:
        worker.wait_for_log("connected to")
        assert worker.ends_after(signal.SIGTERM) < 5
        assert worker.process.returncode == 0
        assert "Traceback" not in worker.log_text()


def test_worker_waits_for_broker_and_database_and_exits_in_time(tmp_path: Path, broker: Broker, key_file: Path) -> None:
    away = worker_settings(broker, key_file, f"mysql://nobody:Pa55word@127.0.0.1:{free_port()}/ledger")
    with scorer(tmp_path, **away | {"MQTT_PORT": str(free_port())}) as worker:
        worker.wait_for_log("waiting for it")
        assert worker.ends_after(signal.SIGTERM) < 5
        assert worker.log_text().count("waiting for it") == 1, "the reason is said once"
        assert "Pa55word" not in worker.log_text()


def test_a_database_without_tables_is_a_configuration_error(tmp_path: Path, broker: Broker, key_file: Path) -> None:
    with scorer(tmp_path, **worker_settings(broker, key_file, f"sqlite:///{tmp_path / 'empty.db'}")) as worker:
        assert worker.process.wait(PATIENCE) == 2
        assert "ntppool-monitor db upgrade" in worker.log_text()
        assert "Traceback" not in worker.log_text()


def health(port: int) -> tuple[int, dict[str, Any]]:
    status, text = fetch(port, "/healthz")
    return status, json.loads(text)


def wait_for_health(port: int, well: dict[str, bool], within: float) -> dict[str, Any]:
    """Wait until the checks of ``/healthz`` have these outcomes; return the checks."""
    told: dict[str, Any] = {}

    def is_so() -> bool:
        nonlocal told
        status, told = health(port)
        found = {name: check["ok"] for name, check in told["checks"].items()}
        assert status == (200 if all(found.values()) else 503), "the status is that of all checks"
        assert told["ok"] == all(found.values())
        return found == well

    block_until(is_so, lambda: f"{well}; told was {told}", within=within)
    return dict(told["checks"])


WELL = {"broker": True, "clock": True, "database": True, "loop": True, "work": True}


@pytest.mark.parametrize("server", SERVERS)
def test_healthz_reports_the_state_and_age_of_broker_and_database(
    server: str, tmp_path: Path, fresh_broker: Broker
) -> None:
    require(server)
    key_file = write_key(tmp_path, fresh_broker)
    port = free_port()
    with temporary_database(SERVERS[server]) as database:
        url = database.create("ledger")
        engine = open_database(url)
        upgrade(engine)
        engine.dispose()
        with scorer(tmp_path, **worker_settings(fresh_broker, key_file, url), METRICS_PORT=str(port)) as worker:
            worker.wait_for_log("connected to")
            checks = wait_for_health(port, WELL, PATIENCE)
            assert checks["broker"] == {"ok": True, "age": 0.0, "bound": 30.0}
            wait_for_metric(port, "ntppool_scorer_backlog")
            wait_for_metric(port, "ntppool_clock_ahead")
            assert fetch(port, "/")[0] == 404
            fresh_broker.stop()
            database.stop(kill=True)
            worker.wait_for_log("trying again")
            worker.wait_for_log("waiting for it")
            status, told = health(port)
            assert status == 200, "a restart is no illness"
            assert "not connected" in told["checks"]["broker"]["detail"]
            # The round in progress is as old as the outage, but rounds have a longer limit.
            checks = wait_for_health(port, WELL | {"broker": False, "database": False}, 30 + PATIENCE)
            assert min(checks["broker"]["age"], checks["database"]["age"]) >= 30
            assert "Lost connection" in checks["database"]["detail"] or "connect" in checks["database"]["detail"]
            fresh_broker.start()
            database.start()
            wait_for_health(port, WELL, 30 + PATIENCE)
            assert worker.log_text().count("database: works again, after ") == 1
            password = str(url.password or "no password")
            assert password not in worker.log_text() + json.dumps(told)


def test_worker_logs_its_version_and_addresses_at_the_start(tmp_path: Path, broker: Broker, key_file: Path) -> None:
    dsn = f"mysql://nobody:Pa55word@127.0.0.1:{free_port()}/ledger"
    with scorer(tmp_path, **worker_settings(broker, key_file, dsn), METRICS_PORT=str(port := free_port())) as worker:
        worker.wait_for_log("scorer 0.1.0 starts for test: database mysql+pymysql://nobody:***@127.0.0.1:")
        worker.wait_for_log(f"broker mqtt://127.0.0.1:{broker.port}, client scorer/")
        worker.wait_for_log(f"metrics 127.0.0.1:{port}")
        assert "Pa55word" not in worker.log_text()


def test_invalid_setting_is_named(tmp_path: Path, broker: Broker, key_file: Path, ledger: str) -> None:
    wrong = worker_settings(broker, key_file, ledger) | {"MQTT_PORT": "70000"}
    with scorer(tmp_path, **wrong) as worker:
        assert worker.process.wait(PATIENCE) == 2
        assert "MQTT_PORT=70000" in worker.log_text()


@pytest.mark.parametrize("server", SERVERS)
def test_worker_exits_in_time_while_the_database_hangs(
    server: str, tmp_path: Path, broker: Broker, key_file: Path
) -> None:
    require(server)
    with temporary_database(SERVERS[server]) as database:
        url = database.create("hanging")
        engine = open_database(url)
        upgrade(engine)
        with scorer(tmp_path, **worker_settings(broker, key_file, url)) as worker:
            worker.wait_for_log("connected to")
            try:
                hang(database, engine)
                assert worker.ends_after(signal.SIGTERM) < 5
            finally:
                database.signal(signal.SIGCONT)
            assert "does not answer" in worker.log_text()
        engine.dispose()


def test_worker_exits_in_time_while_the_collector_hangs(
    tmp_path: Path, broker: Broker, key_file: Path, ledger: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": where, "OTEL_METRIC_EXPORT_INTERVAL": "100"}
        with scorer(tmp_path, **worker_settings(broker, key_file, ledger), **exporting) as worker:
            worker.wait_for_log("connected to")
            assert worker.ends_after(signal.SIGTERM) < 5.0
            assert worker.process.returncode == 0

"""Test ``/readyz`` of real processes, in each phase of their lives and of those of their dependencies."""

import asyncio
import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runtime.db.dsn import parse_dsn
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from testbed.database import MariaDb, temporary_database
from testbed.fixtures.broker import Broker
from testbed.fixtures.worker_process import WorkerProcess, worker_settings, write_key
from testbed.ports import free_port
from testbed.tcp_proxy import Direction, TcpProxy
from testbed.waiting import block_until, wait_until

READY: dict[str, bool] = dict.fromkeys(("broker", "clock", "database", "loop", "phase"), True)


def ask(port: int, path: str = "/readyz") -> tuple[int, Any]:
    """Return status and answer; 0 while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, None


async def until(port: int, expected: dict[str, bool]) -> dict[str, Any]:
    """Wait until the conditions are met, or not, as expected; return the answer."""
    told: Any = None

    def is_so() -> bool:
        nonlocal told
        status, told = ask(port)
        if status == 0:
            return False
        found = {name: check["ok"] for name, check in told["checks"].items()}
        assert told["ok"] == all(found.values()) and status == (200 if told["ok"] else 503)
        return found == expected

    await wait_until(lambda: asyncio.to_thread(is_so), lambda: f"{expected}; told was {told}")
    return dict(told["checks"])


async def test_a_worker_is_ready_only_while_it_can_work(tmp_path: Path, broker: Broker) -> None:
    with temporary_database(MariaDb) as database:
        url = database.create("ledger")
        engine = open_database(url)
        upgrade(engine)
        engine.dispose()
        async with TcpProxy("127.0.0.1", database.port) as to_database, TcpProxy("127.0.0.1", broker.port) as to_broker:
            to_database.refuse()
            port, dsn = free_port(), url.set(port=to_database.port)
            settings = worker_settings(broker, write_key(tmp_path, broker), dsn) | {"MQTT_PORT": str(to_broker.port)}
            with WorkerProcess(tmp_path, "test", "scorer", **settings, METRICS_PORT=str(port)) as worker:
                checks = await until(port, READY | {"phase": False, "database": False, "broker": False})
                assert checks["phase"]["detail"] == "starting"
                assert (await asyncio.to_thread(ask, port, "/healthz"))[0] == 200, "an outage of seconds is no illness"
                await to_database.accept()
                await until(port, READY)

                to_broker.refuse()
                await to_broker.cut()
                checks = await until(port, READY | {"broker": False})
                assert "not connected to mqtt://127.0.0.1:" in checks["broker"]["detail"]
                await to_broker.accept()
                await until(port, READY)

                to_database.refuse()
                await to_database.cut()
                await until(port, READY | {"database": False})
                await to_database.accept()
                await until(port, READY)

                to_database.pause(Direction.TO_CLIENT)  # the transaction under way cannot end
                await asyncio.to_thread(wait_for_work, port)
                worker.process.send_signal(signal.SIGTERM)
                await until_stopping(port)
                await asyncio.to_thread(worker.process.wait, 10)
                to_database.resume()


def wait_for_work(port: int) -> None:
    """Wait until a round waits for the database."""

    def waits() -> bool:
        _, told = ask(port, "/healthz")
        return bool(told["checks"]["work"]["age"] > 0.5)

    block_until(waits, "a round waits for the database")


async def until_stopping(port: int) -> None:
    def is_stopping() -> bool:
        status, told = ask(port)
        return status == 503 and told["checks"]["phase"] == {"ok": False, "detail": "stopping"}

    await wait_until(lambda: asyncio.to_thread(is_stopping), "stopping")


async def test_the_api_is_ready_without_a_broker(tmp_path: Path, broker: Broker) -> None:
    dsn = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = open_database(parse_dsn(dsn))
    upgrade(engine)
    engine.dispose()
    port, api = free_port(), free_port()
    settings = worker_settings(broker, write_key(tmp_path, broker), dsn) | {"MQTT_PORT": str(free_port())}
    ports = {"METRICS_PORT": str(port), "API_PORT": str(api), "STATE_DIRECTORY": str(tmp_path / "state")}
    with WorkerProcess(tmp_path, "test", "api", **settings, **ports):
        checks = await until(port, {name: ok for name, ok in READY.items() if name != "broker"})
        assert checks["phase"] == {"ok": True}
        # It is ready only once hosts can connect.
        assert (await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{api}/")).status == 200
        _, health = await asyncio.to_thread(ask, port, "/healthz")
        assert "not connected" in health["checks"]["broker"]["detail"]


@pytest.mark.parametrize("path", ["/readyz/", "/", "/health"])
def test_other_paths_are_named(path: str) -> None:
    from runtime.telemetry import metrics_server

    port = free_port()
    with (
        metrics_server("127.0.0.1", port, {"/healthz": None, "/readyz": None}),  # type: ignore[dict-item]
        pytest.raises(urllib.error.HTTPError) as told,
    ):
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5)
    with told.value as answer:
        assert (answer.code, answer.read()) == (404, b"try one of /metrics, /healthz, /readyz\n")

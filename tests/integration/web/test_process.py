"""Test the process itself: its start without secrets, several at once, HEAD, whole URLs, health, and its end."""

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from testbed.fixtures.web import V4, fill
from testbed.fixtures.worker_process import WorkerProcess
from testbed.ports import ADDRESS, free_port
from testbed.waiting import PATIENCE, block_until


class WebProcess(WorkerProcess):
    """The public pages of ``devel``, on a free port."""

    def __init__(self, directory: Path, database: str) -> None:
        self.port, self.metrics = free_port(), free_port()
        settings = {
            "DATABASE_DSN": database,
            "WEB_PORT": str(self.port),
            "METRICS_PORT": str(self.metrics),
            "HOME": "/nonexistent",
        }
        super().__init__(directory, "devel", "web", **settings)

    def ask(self, path: str, method: str = "GET", port: int | None = None) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        connection = http.client.HTTPConnection(ADDRESS, port or self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def until_ready(self) -> None:
        """Wait until it says that it is ready."""
        block_until(self._is_ready, what="the public pages are ready")

    def _is_ready(self) -> bool:
        try:
            return self.ask("/readyz", port=self.metrics)[0] == 200
        except OSError:
            assert self.process.poll() is None
            return False


@pytest.fixture
def database(tmp_path: Path) -> str:
    engine = open_database(URL.create("sqlite", database=str(tmp_path / "ledger.db")))
    upgrade(engine)
    fill(engine)
    engine.dispose()
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def processes(tmp_path: Path, database: str) -> Iterator[list[WebProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(WebProcess(tmp_path, database)) for _ in range(2)]


def _raw(port: int, request: bytes) -> bytes:
    with socket.create_connection((ADDRESS, port), PATIENCE) as client:
        client.sendall(request)
        client.settimeout(PATIENCE)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def test_two_processes_serve_the_same_without_a_secret(processes: list[WebProcess]) -> None:
    path = f"/api/data/server/scores/{V4}/json?monitor=*"
    for one in processes:
        one.until_ready()
    assert processes[0].ask(path) == processes[1].ask(path)
    first = processes[0]
    assert first.ask(path)[0] == 200 and first.ask(path, "HEAD") == (200, b"")
    whole = (
        f"GET http://pool.example/scores/{V4}/json?limit=3 HTTP/1.1\r\nHost: pool.example\r\nConnection: close\r\n\r\n"
    )
    answer = _raw(first.port, whole.encode())
    assert (
        answer.startswith(b"HTTP/1.1 301 ")
        and f"location: /api/data/server/scores/{V4}/json?limit=3".encode() in answer
    )
    health = json.loads(first.ask("/healthz", port=first.metrics)[1])
    assert health["ok"] and set(health["checks"]) == {"database", "loop"}
    metrics = first.ask("/metrics", port=first.metrics)[1].decode()
    assert "ntppool_web_requests_total{" in metrics and "/api/data/server/scores/{server}/{mode}" in metrics
    for one in processes:
        assert one.ends_after(signal.SIGTERM) < 5


def test_a_database_without_tables_is_a_wrong_setting(tmp_path: Path) -> None:
    with WebProcess(tmp_path, f"sqlite:///{tmp_path / 'other.db'}") as web:
        assert web.process.wait(PATIENCE) == 2
        assert "db upgrade" in web.log_text()

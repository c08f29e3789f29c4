"""Test that a process ends in time, however its telemetry collector, scraper or name look-ups fail."""

import asyncio
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runtime.mqtt.socket import Unreachable, open_socket
from testbed.paths import CHECKOUT
from testbed.ports import free_port

PROGRAM = """
import sys, time
from runtime.health import Report
from runtime.telemetry import metrics_server, telemetry
with metrics_server("127.0.0.1", int(sys.argv[1]) or None, {"/healthz": lambda: Report("test", {})}):
    with telemetry("test", "devel") as numbers:
        numbers.meter.create_counter("things").add(1)
        with numbers.tracer.start_as_current_span("work"):
            pass
        time.sleep(0.3)  # so that an export is under way
        print("running", flush=True)
        sys.stdin.readline()
"""

HANGING_NAMES = """
import socket, time
ask = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if str(host).endswith("hanging.example"):
        time.sleep(120)
    return ask(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a port, and call ``talk`` with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    taken.append(client)
                    threading.Thread(target=talk, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for client in taken:
            client.close()


def say_nothing(client: socket.socket) -> None:
    """Never answer."""


def drip(client: socket.socket) -> None:
    """Answer byte by byte, each one before a time-out."""
    with suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
            client.send(bytes((byte,)))
            time.sleep(0.2)


def overloaded(client: socket.socket) -> None:
    """Answer that the client should retry later."""
    with suppress(OSError):
        client.recv(65536)
        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def process(endpoint: str, directory: Path, metrics_port: int = 0) -> Iterator["subprocess.Popen[str]"]:
    """Run a program that has begun to export, and ends when it reads a line."""
    (directory / "sitecustomize.py").write_text(HANGING_NAMES)
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PYTHONPATH": f"{directory}:{CHECKOUT}",
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(metrics_port)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None and running.stdout.readline() == "running\n"
            yield running
        finally:
            running.kill()


def seconds_to_end(running: "subprocess.Popen[str]") -> float:
    began = time.monotonic()
    running.communicate("\n", timeout=60)
    assert running.returncode == 0
    return time.monotonic() - began


def quickest_end(endpoint: str, tmp_path: Path) -> float:
    """Return the shortest time to the end, of up to three programs, since a busy machine may delay one of them."""
    took = []
    while len(took) < 3 and min(took, default=math.inf) >= 4.0:
        with process(endpoint, tmp_path) as running:
            took.append(seconds_to_end(running))
    return min(took)


@pytest.mark.parametrize("talk", [say_nothing, drip, overloaded])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unresponsive_collector_does_not_delay_the_end_of_a_process(
    tmp_path: Path, scheme: str, talk: Callable[[socket.socket], None]
) -> None:
    with talking(talk) as port:
        assert quickest_end(f"{scheme}://127.0.0.1:{port}", tmp_path) < 4.0


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{refused}", "http://hanging.example:4318", "no URL"])
def test_unreachable_collector_does_not_delay_the_end_of_a_process(tmp_path: Path, endpoint: str) -> None:
    assert quickest_end(endpoint.format(refused=free_port()), tmp_path) < 4.0


def test_silent_scraper_delays_neither_others_nor_the_end_of_a_process(tmp_path: Path) -> None:
    port = free_port()
    with (
        process("http://127.0.0.1:1", tmp_path, port) as running,
        socket.create_connection(("127.0.0.1", port)) as silent,
        socket.create_connection(("127.0.0.1", port)) as asks,
    ):
        silent.send(b"GET /metr")
        asks.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert asks.recv(15) == b"HTTP/1.0 200 OK", "others are answered meanwhile"
        assert seconds_to_end(running) < 4.0


def test_remaining_metrics_are_exported_at_the_end(tmp_path: Path) -> None:
    asked: list[str] = []

    def take(client: socket.socket) -> None:
        with client.makefile("rb") as lines:
            asked.append(lines.readline().decode())
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        client.close()

    with talking(take) as port, process(f"http://127.0.0.1:{port}", tmp_path) as running:
        before = len(asked)
        seconds_to_end(running)
        assert "POST /v1/metrics HTTP/1.1\r\n" in asked[before:]


async def test_hanging_name_lookup_does_not_delay_the_end_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, flags: int = 0, **__: object) -> None:
        if not flags & socket.AI_NUMERICHOST:
            released.wait(60)
        raise socket.gaierror("too late")

    monkeypatch.setattr("runtime.mqtt.socket._RESOLVE", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(Unreachable, match=r"hanging\.example: the look-up of the name takes too long"):
            await open_socket("hanging.example", 1883, None)
        began = time.monotonic()
        await asyncio.get_running_loop().shutdown_default_executor()  # as at the end of a process
        assert time.monotonic() - began < 2.0
    finally:
        released.set()


async def test_name_lookup_fails_for_now_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Unreachable, match="can't start new thread"):
        await open_socket("localhost", 1883, None)
    with pytest.raises(Unreachable, match="Connection refused"):
        await open_socket("127.0.0.1", free_port(), None)

"""Test the fleet as a separate process, as the demo runs it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.fixtures.ntp import quick_sample
from testbed.ntp.fleet import standard_fleet
from testbed.ntp.spec import ServerSpec, decode_specs, encode_specs
from testbed.waiting import PATIENCE


def free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def spec() -> ServerSpec:
    return ServerSpec(address="127.78.1.1", port=free_port("127.78.1.1"), offset=0.5)


@pytest.fixture
def path(tmp_path: Path, spec: ServerSpec) -> Path:
    path = tmp_path / "fleet.json"
    path.write_bytes(encode_specs([spec]))
    return path


@contextlib.contextmanager
def fleet(path: Path, *before: str) -> Iterator[subprocess.Popen[str]]:
    command = [*before, sys.executable, "-m", "testbed.ntp", "fleet", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_ready(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "ready\n"


def offset(spec: ServerSpec) -> float:
    return float(quick_sample(spec.address, spec.port).offset)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed.ntp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fleet_serves_once_it_is_ready_and_exits_on_a_signal(
    path: Path, spec: ServerSpec, number: signal.Signals
) -> None:
    with fleet(path) as process:
        assert is_ready(process)
        assert offset(spec) == pytest.approx(0.5, abs=0.006)
        process.send_signal(number)
        out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, "", "")


def test_fleet_can_be_started_again_after_sigkill(path: Path, spec: ServerSpec) -> None:
    for _ in range(2):
        with fleet(path) as process:
            assert is_ready(process)
            assert offset(spec) == pytest.approx(0.5, abs=0.006)


def test_sighup_reloads_the_file_and_keeps_the_servers_if_it_is_invalid(path: Path, spec: ServerSpec) -> None:
    with fleet(path) as process:
        assert is_ready(process)
        assert process.stderr is not None
        path.write_bytes(encode_specs([ServerSpec(address=spec.address, port=spec.port, offset=-3.0)]))
        process.send_signal(signal.SIGHUP)
        assert "reloaded, 1 servers" in process.stderr.readline()
        assert offset(spec) == pytest.approx(-3.0, abs=0.006)
        path.write_text("[")
        process.send_signal(signal.SIGHUP)
        assert "not JSON" in process.stderr.readline()
        assert offset(spec) == pytest.approx(-3.0, abs=0.006)


def test_invalid_file_exits_with_2_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_text('[{"address": "127.0.0.1", "stratum": 999}]')
    run = simulation("fleet", str(path))
    assert (run.returncode, run.stdout) == (2, "")
    assert f"{path}: server 0: stratum is 999; must be 0 to 255" in run.stderr
    assert "Traceback" not in run.stderr


def test_address_in_use_exits_with_1_and_is_named(path: Path, spec: ServerSpec) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((spec.address, spec.port))
        run = simulation("fleet", str(path))
    assert (run.returncode, run.stdout) == (1, "")
    assert f"cannot listen on {spec.address} port {spec.port}: Address already in use" in run.stderr


def test_standard_prints_the_standard_fleet_as_a_file() -> None:
    run = simulation("standard", "12", "--base", "127.30.0.1", "--port", "4123")
    assert run.returncode == 0
    assert decode_specs(run.stdout.encode(), "stdout") == standard_fleet(12, "127.30.0.1", 4123)
    assert json.loads(run.stdout)[0]["name"] == "off by 400 ms"


def test_invalid_size_of_the_fleet_exits_with_2() -> None:
    run = simulation("standard", "0")
    assert run.returncode == 2
    assert "count is 0; must be 1 or more" in run.stderr


def test_two_thousand_servers_need_little_processor_time_to_start(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    port = free_port("127.0.0.1")
    path.write_bytes(encode_specs(standard_fleet(2000, "127.40.0.1", port)))
    # Set the usual soft limit of open files, since this machine's may be higher.
    with fleet(path, "bash", "-c", 'ulimit -Sn 1024; exec "$@"', "-") as process:
        assert is_ready(process)
        assert processor_seconds(process.pid) < 5, "counted so that a busy machine does not matter"

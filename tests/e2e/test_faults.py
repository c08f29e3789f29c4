"""Test fault runs: a short run with a fixed seed finds no differences, and an interrupted run leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.faults.__main__ import main
from bench.faults.plan import NAMES
from testbed.fixtures.broker import require_address
from testbed.fixtures.database import require
from testbed.ports import ADDRESS_V6
from testbed.waiting import block_until

COMMAND = [sys.executable, "-P", "-m", "bench.faults"]
LONG = ("second agent with the same name", "expired token", "full disk under the spool")
"""Kinds of faults that are too long for a run of half a minute: each takes most of it."""


@pytest.mark.timeout(240)
def test_half_a_minute_of_faults_loses_nothing() -> None:
    """On MySQL, with TLS, by IPv6: test_kill.py is on MariaDB, with plain TCP for workers, by IPv4."""
    require("mysql")
    require_address(ADDRESS_V6)
    kinds = [name for name in NAMES if name not in LONG]
    given = ["--minutes", "0.5", "--seed", "4", "--database", "mysql", "--ipv6", "--only", *kinds]
    ended = subprocess.run([*COMMAND, *given], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["good"]
    assert summary["ipv6"]
    assert (summary["lost"], summary["duplicated"], summary["unexplained"]) == (0, 0, 0)
    assert sum(summary["faults"].values()) >= 3
    assert summary["results_stored"] > 500
    assert summary["results_acknowledged"] >= summary["results_stored"]


def test_interrupted_run_leaves_no_process_and_reports_the_interruption() -> None:
    # A script that starts it in the background makes it ignore SIGINT.
    in_background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND, "--minutes", "5"]
    with subprocess.Popen(in_background, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        directory = re.search(r"in (\S+)$", running.stderr.readline().strip())
        assert directory is not None
        block_until(lambda: running.poll() is not None or len(processes(directory[1])) >= 6, within=60)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        said = running.stderr.read()
        assert running.wait(30) == 130
    assert "interrupted" in said
    assert processes(directory[1]) == []


def processes(directory: str) -> list[str]:
    """Return the command lines that contain this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if directory in line]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes 0: must be"),
        (["--only", "rain"], "--only 'rain': is not a fault"),
        (["--seed", "x"], "--seed"),
        (["--database", "sqlite"], "--database"),
    ],
)
def test_invalid_argument_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_missing_programs_end_the_run_with_2(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": str(tmp_path), "LC_ALL": "C"}
    ended = subprocess.run(
        [*COMMAND, "--minutes", "0.1"], capture_output=True, text=True, check=False, env=environ, timeout=60
    )
    assert ended.returncode == 2, ended.stderr

"""Test a benchmark of the agent as a process: it measures a real daemon, and leaves nothing behind when interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.paths import CHECKOUT
from testbed.waiting import PATIENCE, block_until

# Enough assignments that one is due every second.
SHORT = ["--minutes", "0.05", "--assignments", "500", "--project-environment"]
LONG = ["--minutes", "5", "--assignments", "500", "--project-environment"]


def start(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench.agent_memory", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(directory: Path) -> set[int]:
    """Return the processes whose working directory is in the benchmark's directory, as is that of all its children."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = (process / "cwd").readlink().is_relative_to(directory)
        except OSError:
            continue
        if inside:
            found.add(int(process.name))
    return found


def test_prints_the_memory_of_a_working_agent(tmp_path: Path) -> None:
    with start(tmp_path, *SHORT) as program:
        out, error = program.communicate(timeout=PATIENCE)
    rss, pss = (json.loads(line) for line in out.splitlines())
    assert error == ""
    assert (rss["figure"], rss["at_most"], pss["figure"]) == ("agent memory, RSS", 30.0, "agent memory, PSS")
    assert 5 < pss["value"] <= rss["value"] < 100
    assert rss["conditions"]["samples"] > 0
    assert program.returncode == (0 if rss["met"] else 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_no_process_and_no_file(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, *LONG) as program:
        block_until(
            lambda: program.poll() is not None or len(processes_of(tmp_path)) >= 3, "broker, NTP servers, agent"
        )
        assert program.poll() is None
        program.send_signal(number)
        _, error = program.communicate(timeout=PATIENCE)
    assert (program.returncode, error) == (130, "bench: interrupted\n")
    assert processes_of(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []

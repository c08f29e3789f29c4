"""Test that ``tests/unit`` stays fast: a test there fails if it starts a process, leaves the host or sleeps long."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.paths import CHECKOUT

BEGIN = """
import asyncio, contextlib, os, socket, subprocess, time
import pytest

@pytest.fixture
def process():
    return subprocess.run(["true"])

"""

SLOW = {
    "def test_it(): subprocess.run(['true'])": "starts no process",
    "def test_it(): os.system('true')": "starts no process",
    "def test_it(process): pass": "starts no process",
    "def test_it():\n    with contextlib.suppress(Exception): subprocess.run(['true'])": "starts no process",
    "def test_it(): time.sleep(0.2)": "sleeps for no more than 0.1 s",
    "def test_it(): asyncio.run(asyncio.sleep(0.2))": "sleeps for no more than 0.1 s",
    "def test_it(): socket.create_connection(('192.0.2.1', 9), 5)": "connects to no other host",
}

FAST = """
def test_it():
    time.sleep(0.01)
    asyncio.run(asyncio.sleep(0.01))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(CHECKOUT / "tests/unit/conftest.py", tmp_path)
    return tmp_path


def run(folder: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir=.", "."]
    environ = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60).stdout


def test_slow_tests_fail_with_the_violated_rule_of_the_folder(folder: Path) -> None:
    for number, test in enumerate(SLOW):
        (folder / f"test_{number}.py").write_text(BEGIN + test + "\n")
    said = run(folder)
    for number, reason in enumerate(SLOW.values()):
        words = rf"(FAILED|ERROR) test_{number}\.py::test_it - .*tests/unit {re.escape(reason)}"
        assert re.search(words, said), f"{reason}: {said}"


def test_fast_test_passes(folder: Path) -> None:
    (folder / "test_fast.py").write_text(BEGIN + FAST)
    assert "1 passed" in run(folder)

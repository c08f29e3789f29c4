"""Test unusual hosts: no home directory, no entry in the user database, no locale, no IPv6."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.fixtures.agent import AgentProcess, pool_of
from testbed.fixtures.broker import Broker
from testbed.ntp.server import Fleet
from testbed.ntp.spec import ServerSpec
from testbed.paths import CHECKOUT
from testbed.waiting import wait_until

NAME = "odd.devel.mon.example"

ODD = """
import errno, os, pwd, socket

def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

class Socket(socket.socket):
    def __init__(self, family=-1, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *args, **kwargs)

pwd.getpwuid = nobody
socket.socket = Socket
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Environment of a process on such a host, with a ``sitecustomize`` that imitates it."""
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "sitecustomize.py").write_text(ODD)
    (tmp_path / "defaults").touch()
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONPATH": f"{tmp_path / 'odd'}:{CHECKOUT}",
        "PYTHONWARNINGS": "error",
        "MONITOR_DEFAULTS_FILE": str(tmp_path / "defaults"),
    }


class OddAgent(AgentProcess):
    """An agent in the environment of such a host."""

    odd: dict[str, str]

    @property
    def environ(self) -> dict[str, str]:
        return self.odd


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, environ: dict[str, str]) -> Iterator[OddAgent]:
    with OddAgent(tmp_path, broker, NAME) as made:
        made.odd = environ
        yield made


async def test_agent_measures_delivers_and_reports_its_status(agent: OddAgent, broker: Broker) -> None:
    async with Fleet([ServerSpec(address="127.43.1.1", port=0)]) as fleet, pool_of(broker, NAME) as pool:
        server = fleet.specs[0]
        await pool.configure(base_checks=[f"{server.address}:{server.port}"])
        await pool.assign(1, server)
        agent.start()
        await wait_until(lambda: pool.batches, lambda: agent.log_text, within=40)
        await wait_until(lambda: (agent.report() or {}).get("last_results"), lambda: agent.log_text)
        said = await asyncio.to_thread(agent.run, "status")
        assert (said.returncode, said.stderr) == (0, "")
        await pool.unassign(1)
        await pool.forget()
    assert "Traceback" not in agent.log_text


def run(environ: dict[str, str], *arguments: str, module: str = "agent") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=CHECKOUT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_agent_without_a_home_directory_asks_for_a_state_directory(environ: dict[str, str]) -> None:
    said = run(environ, "monitor")
    assert (said.returncode, said.stderr) == (
        2,
        "ntppool-agent: this user has no home: --state-dir or MONITOR_STATE_DIR must name a directory\n",
    )


def test_commands_that_need_no_home_directory_work_without_one(environ: dict[str, str]) -> None:
    said = run(environ, "check", "127.0.0.1")
    assert (said.returncode, "127.0.0.1 is not a public address: a loopback address" in said.stderr) == (2, True)
    said = run(environ, "-e", "devel", "status")
    assert said.returncode == 1 and said.stderr == "" and "/var/lib/ntppool-agent/devel" in said.stdout
    assert run(environ, "version").returncode == 0


def test_operator_command_without_a_home_directory_asks_for_a_setting(environ: dict[str, str], tmp_path: Path) -> None:
    said = run({**environ, "JWT_KEY": "x" * 64}, "--env", "devel", "db", "status", module="ops")
    assert said.returncode == 2, said
    assert "STATE_DIRECTORY: must be set, or DATABASE_DSN, since this user has no home" in said.stderr
    said = run({**environ, "STATE_DIRECTORY": str(tmp_path)}, "--env", "devel", "db", "upgrade", module="ops")
    assert said.returncode == 0, said
    assert "Traceback" not in said.stderr


def test_command_survives_text_that_the_locale_cannot_encode(environ: dict[str, str], tmp_path: Path) -> None:
    said = run({**environ, "PYTHONIOENCODING": "ascii:strict"}, "--state-dir", str(tmp_path / "tëst"), "status")
    assert (said.returncode, said.stderr) == (1, "")
    assert "not set up for prod" in said.stdout

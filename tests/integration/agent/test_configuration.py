"""Test start and end of an agent: invalid settings are reported with exit status 2, and SIGTERM ends it in time."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.state import Broker as BrokerPlace
from agent.state import State, provision
from testbed.fixtures.agent import AgentProcess
from testbed.fixtures.broker import Broker
from testbed.paths import CHECKOUT
from testbed.tls import LocalCa
from testbed.waiting import wait_until

NAME = "wrong.devel.mon.example"


def command(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "defaults").touch()  # keeps the content that a test has written
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        cwd=CHECKOUT,
        env={
            "PATH": "/usr/bin:/bin",
            "MONITOR_DEFAULTS_FILE": str(tmp_path / "defaults"),
            "HOME": str(tmp_path),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "why"),
    [
        (["-e", "production", "status"], {}, "argument for DEPLOYMENT_MODE=production: input should be 'prod', 'test'"),
        (["monitor"], {"MONITOR_IPV4": "maybe"}, "MONITOR_IPV4 (environment)=maybe: input should be a valid boolean"),
        (
            ["monitor"],
            {"MONITOR_DEFAULTS_FILE": "/nowhere"},
            "MONITOR_DEFAULTS_FILE=/nowhere: must be an existing file",
        ),
        (["monitor", "--once"], {}, "ntppool-agent/prod/state.json: is missing: this monitor has not been set up"),
        (["monitor", "--once", "--sanity-only"], {}, "only one of them"),
        (["check", "127.0.0.1"], {}, "127.0.0.1 is not a public address: a loopback address"),
        (["check", "8.8.8.8:124"], {}, "ports other than 123 are allowed in devel only"),
        (["check", "time.example.1"], {}, "'time.example.1' is neither an IP address nor a host name"),
        (["dance"], {}, "No such command 'dance'"),
        (["monitor", "--twice"], {}, "No such option: --twice"),
    ],
)
def test_invalid_settings_are_refused_with_the_reason(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], why: str
) -> None:
    said = command(tmp_path, *arguments, **environ)
    assert said.returncode == 2, said
    assert why in said.stderr
    assert "Traceback" not in said.stderr


def test_settings_of_an_older_agent_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "defaults").write_text("MONITOR_DEBUG_NTP_QUERIES=true\nMONITOR_LOG_LEVEL=warn\nMONITOR_DEBUG=true\n")
    said = command(tmp_path, "--deploy-env", "devel", "--log-level", "WARN", "monitor", "--once")
    assert (said.returncode, "devel/state.json: is missing" in said.stderr) == (2, True), said.stderr
    assert "ntppool-agent: warning: MONITOR_DEBUG_NTP_QUERIES (" in said.stderr


def test_state_file_of_another_environment_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "state"
    state = State(name=NAME, broker=BrokerPlace(host="::1", port=1))
    directory = provision(base, "devel", state, "t")
    arguments = ("-e", "devel", "--state-dir", str(base), "monitor")
    directory.state_file.write_text('{"name": "nlams1.prod.mon.example", "broker": {"host": "::1"}}')
    said = command(tmp_path, *arguments)
    assert (said.returncode, "belongs to prod, not to devel" in said.stderr) == (2, True), said.stderr


def test_daemon_module_refuses_to_be_run_directly(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "agent.daemon"], cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (said.returncode, "ntppool-agent monitor" in said.stderr) == (1, True)


@pytest.mark.parametrize("broker_is", ["away", "hanging"])
async def test_sigterm_ends_the_agent_in_time_even_without_a_broker(
    tmp_path: Path, fresh_broker: Broker, broker_is: str
) -> None:
    with AgentProcess(tmp_path, fresh_broker, NAME) as agent:
        agent.start()
        await wait_until(lambda: "connected to" in agent.log_text, lambda: agent.log_text)
        process = fresh_broker.process.process
        assert process is not None
        if broker_is == "away":
            fresh_broker.stop()
        else:
            process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            agent.signal(signal.SIGTERM)
            assert await agent.ended(5.0) == 0, agent.log_text
            assert time.monotonic() - began < 5
        finally:
            if broker_is == "hanging":
                process.send_signal(signal.SIGCONT)


HANGING_NAMES = """
import pathlib, socket, time
ask = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if host == "hanging.example" and not kwargs.get("flags"):
        pathlib.Path(__file__).with_name("asked").touch()
        time.sleep(120)
    return ask(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


async def test_sigterm_ends_the_agent_in_time_during_a_hanging_name_lookup(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING_NAMES)
    (tmp_path / "defaults").touch()
    (tmp_path / "ca.pem").write_text(LocalCa().certificate)
    place = BrokerPlace(host="hanging.example", ca_file=str(tmp_path / "ca.pem"))
    provision(tmp_path, "devel", State(name=NAME, broker=place), "token")
    environ = {
        **os.environ,
        "MONITOR_DEFAULTS_FILE": str(tmp_path / "defaults"),
        "PYTHONPATH": f"{tmp_path}:{CHECKOUT}",
    }
    command = [sys.executable, "-m", "agent", "-e", "devel", "--state-dir", str(tmp_path), "monitor"]
    with subprocess.Popen(command, cwd=CHECKOUT, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            await wait_until((tmp_path / "asked").exists, "the name is not looked up")
            began = time.monotonic()
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
            assert time.monotonic() - began < 5
        finally:
            process.kill()


async def test_agent_without_a_token_waits_for_one_and_never_discloses_it(tmp_path: Path, broker: Broker) -> None:
    with AgentProcess(tmp_path, broker, "late.devel.mon.example") as agent:
        token = agent.directory.token_file.read_text()
        agent.directory.token_file.unlink()
        agent.start("--debug", "monitor")
        await wait_until(lambda: "has no token" in agent.log_text, lambda: agent.log_text)
        agent.directory.token_file.touch(mode=0o600)
        agent.directory.token_file.write_text(token)
        await wait_until(lambda: "connected to" in agent.log_text, lambda: agent.log_text, within=40)
        assert token.strip() not in agent.log_text
        assert agent.process is not None
        for kind in ("cmdline", "environ"):
            shown = Path(f"/proc/{agent.process.pid}/{kind}").read_bytes()
            assert token.strip().encode() not in shown

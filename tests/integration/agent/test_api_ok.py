"""Test ``api ok`` on a real broker that wants certificates and an API by TLS: it names the step that fails."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.api_ok import check_api
from agent.certificate_request import CertificateFiles
from agent.check_steps import Step
from agent.renew import Renewal, client_of
from agent.settings import AgentSettings
from agent.state import Api, StateDirectory, StateFile
from agent.state import Broker as BrokerPlace
from testbed.agent_api import AgentApi, CertifyingBroker, Issuer, server_pair, told_broker
from testbed.fixtures.agent import AgentProcess, pool_of
from testbed.fixtures.broker import TRANSPORTS, Broker
from testbed.ports import free_port
from testbed.recording_api import Asked, Reply, refuse
from testbed.waiting import wait_until

NAME = "check1-acc1.devel.mon.example"
KEY = "ntpm_a_key_for_tests"
ALL = ["state", "name", "connection", "TLS", "answer", "clock", "key", "configuration", "token", "certificate",
       "broker", "login", "publish"]  # fmt: skip


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(kind=CertifyingBroker) as made:
        yield made


def process_of(broker: Broker) -> CertifyingBroker:
    assert isinstance(broker.process, CertifyingBroker)
    return broker.process


@pytest.fixture
def api(broker: Broker, tmp_path: Path) -> Iterator[AgentApi]:
    process = process_of(broker)
    pair = server_pair(process, tmp_path)
    with AgentApi(broker.key, issuer=process.issuer, name=NAME, tls=pair) as made:
        made.keys["earlier"] = KEY
        made.addresses["earlier"] = {"v4": "192.0.2.1"}
        made.broker = told_broker(process)
        yield made


@pytest.fixture
def directory(tmp_path: Path, api: AgentApi, broker: Broker) -> StateDirectory:
    """The state directory of an agent that has run."""
    made = StateDirectory(tmp_path, "devel")
    made.prepare()
    ca_file = str(process_of(broker).directory / "ca.pem")
    made.write_file(StateFile(api=Api(url=api.url, key=KEY, ca_file=ca_file), allow_private_targets=True))
    assert Renewal(made, client_of).run().kind == "ok"
    return made


def check(directory: StateDirectory) -> dict[str, Step]:
    """Run the check; return the steps by name."""
    done: list[Step] = []
    settings = AgentSettings(env="devel", state_dir=directory.path.parent)
    steps = check_api(settings, {}, done.append)
    assert steps == done
    assert not any(KEY in step.line() or "eyJ" in step.line() for step in steps)
    return {step.name: step for step in steps}


def failed(steps: dict[str, Step]) -> list[str]:
    return [name for name, step in steps.items() if step.verdict == "failed"]


def said(steps: dict[str, Step]) -> str:
    return "\n".join(step.line() for step in steps.values())


def test_every_step_is_checked_and_nothing_is_changed(directory: StateDirectory) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.path.iterdir()}
    steps = check(directory)
    assert list(steps) == ALL and failed(steps) == [], said(steps)
    assert "valid until" in steps["certificate"].detail and NAME in steps["publish"].detail
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.path.iterdir()}


def change(directory: StateDirectory, **fields: object) -> None:
    directory.write_file(msgspec.structs.replace(directory.read_file(), **fields))


def token(name: str = NAME, ends: float = 3600.0) -> str:
    claims = json.dumps({"sub": name, "iat": time.time() - 7200, "exp": time.time() + ends}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x"


def untrusted(directory: StateDirectory) -> None:
    api = directory.read_file().api
    assert api is not None
    change(directory, api=Api(url=api.url, key=KEY))


def another_port(directory: StateDirectory) -> None:
    api = directory.read_file().api
    assert api is not None
    change(directory, api=Api(url=f"https://127.0.0.1:{free_port()}", key=KEY, ca_file=api.ca_file))


def foreign_certificate(directory: StateDirectory) -> None:
    """Install a certificate of another CA, for our name."""
    files = CertificateFiles(directory)
    asked = Asked("POST", "", {}, files.request(NAME).encode(), "")
    files.install(Issuer().sign(asked).body, NAME)


BREAKS: dict[str, tuple[Callable[[StateDirectory], object], list[str], str]] = {
    "no API": (another_port, ["connection"], "Check the network"),
    "unknown CA": (untrusted, ["TLS"], "the file with its certificate in MONITOR_API_CA_FILE"),
    "no token": (lambda directory: directory.token_file.unlink(), [], "Start the agent"),
    "expired token": (lambda directory: directory.token_file.write_text(token(ends=-60)), [], "the token ended on"),
    "token of another": (lambda directory: directory.token_file.write_text(token("x.devel.mon.example")), [], "is for"),
    "forged token": (lambda directory: directory.token_file.write_text(token()), ["login"], "setup'"),
    "open key": (lambda directory: directory.key_file.chmod(0o644), ["certificate", "broker"], "must be 0600"),
    "no certificate": (lambda directory: directory.certificate_file.unlink(), ["login"], "there is none"),
    "foreign certificate": (foreign_certificate, ["login"], "by itself"),
    "no broker": (
        lambda directory: change(directory, broker=BrokerPlace(host="127.0.0.1", port=free_port())),
        ["broker"],
        "lets TCP to port",
    ),
}


@pytest.mark.parametrize(("breaks", "steps", "words"), BREAKS.values(), ids=BREAKS)
def test_step_that_fails_is_named_with_what_would_help(
    directory: StateDirectory, breaks: Callable[[StateDirectory], object], steps: list[str], words: str
) -> None:
    breaks(directory)
    found = check(directory)
    assert failed(found) == steps and words in said(found), said(found)


def test_refusals_of_the_api_are_told_from_its_outages(directory: StateDirectory, api: AgentApi) -> None:
    api.clock_ahead = 86400.0
    found = check(directory)
    assert failed(found) == ["clock"], said(found)
    api.clock_ahead = 0.0
    api.status = "pending"
    assert "yet to approve" in said(check(directory))
    api.overrides["/monitor/api/token"] = lambda asked: refuse(403, "this monitor waits for approval")
    directory.token_file.unlink()
    found = check(directory)
    assert failed(found) == ["token"] and "waits for approval" in said(found)
    api.overrides["/monitor/api/config"] = lambda asked: Reply(503)
    found = check(directory)
    assert "answer" in failed(found) and found["key"].verdict == "skipped"
    del api.overrides["/monitor/api/config"]
    api.refused_keys.add(KEY)
    assert "key" in failed(check(directory))


def test_host_that_is_not_set_up_or_has_a_broken_state_is_told_what_to_do(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path, "devel")
    assert f"Run 'ntppool-agent --env devel --state-dir {tmp_path} setup'" in said(check(directory))
    directory.prepare()
    directory.state_file.write_text("{")
    assert failed(check(directory)) == ["state"]


async def test_command_does_not_disturb_the_running_agent(
    tmp_path: Path, broker: Broker, api: AgentApi, directory: StateDirectory
) -> None:
    written, credentials = directory.state_file.read_bytes(), directory.token_file.read_bytes()
    with AgentProcess(tmp_path, broker.via(TRANSPORTS[1]), NAME) as agent:
        directory.state_file.write_bytes(written)
        directory.token_file.write_bytes(credentials)
        async with pool_of(broker, NAME) as pool:
            agent.start()
            await wait_until(lambda: pool.status.online, lambda: agent.log_text)
            connections = agent.log_text.count("connected to")
            done = await asyncio.to_thread(agent.run, "api", "ok", timeout=240)
            assert (done.returncode, done.stderr) == (0, ""), done
            assert [line.split()[1] for line in done.stdout.splitlines()] == ALL
            api.refused_keys.add(KEY)
            told = await asyncio.to_thread(agent.run, "api", "ok", "--json", timeout=240)
            steps = {step["name"]: step for step in json.loads(told.stdout)}
            assert (told.returncode, steps["key"]["verdict"], steps["login"]["verdict"]) == (1, "failed", "ok")
            assert agent.log_text.count("connected to") == connections and pool.status.online
            assert KEY not in done.stdout + told.stdout + told.stderr
            await pool.forget()


def test_secret_that_the_api_repeats_is_not_shown(directory: StateDirectory, api: AgentApi) -> None:
    api.overrides["/monitor/api/config"] = lambda asked: refuse(401, f"what is {asked.headers['authorization']}?")
    assert "what is Bearer" in said(check(directory))

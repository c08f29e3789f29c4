"""Test a daemon that is started before ``setup``: it waits, says for what, and starts by itself."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.state import Api, StateDirectory, StateFile
from auth.tokens import Role
from testbed.fixtures.agent import AgentProcess, Pool, pool_of
from testbed.fixtures.broker import Broker
from testbed.recording_api import RecordingApi, recording_api, refuse, say
from testbed.waiting import wait_until

NAME = "waiting1-acc1.devel.mon.example"
KEY = "ntpm_a_key_for_tests"


@pytest.fixture
def api(broker: Broker) -> Iterator[RecordingApi]:
    with recording_api(name=NAME) as made:
        made.keys["earlier"] = KEY
        made.addresses["earlier"] = {"v4": "192.0.2.1"}
        made.broker = {"host": broker.address.host, "port": broker.address.port}
        made.overrides["/monitor/api/token"] = lambda asked: say(
            token=broker.token(Role.MONITOR, NAME, "devel"), expires_on="2099-01-01T00:00:00Z"
        )
        made.overrides["/monitor/api/certificate"] = lambda asked: refuse(404, "there is none")
        yield made


@pytest.fixture
async def pool(broker: Broker) -> AsyncIterator[Pool]:
    async with pool_of(broker, NAME) as made:
        yield made
        await made.forget()


@pytest.fixture
def agent(tmp_path: Path, broker: Broker) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, broker, NAME) as made:
        made.directory.state_file.unlink()
        made.directory.token_file.unlink()
        yield made


def store_key(directory: StateDirectory, api: RecordingApi, key: str = KEY) -> None:
    directory.write_file(StateFile(api=Api(url=api.url, key=key)))


async def test_daemon_waits_for_setup_and_then_starts_by_itself(
    agent: AgentProcess, api: RecordingApi, pool: Pool
) -> None:
    agent.start()
    await wait_until(lambda: "waiting, not probing" in agent.log_text, lambda: agent.log_text)
    await wait_until(agent.report)
    said = agent.run("status", timeout=240)
    assert said.returncode == 1
    assert "waiting      not probing" in said.stdout and "'ntppool-agent --env devel --state-dir" in said.stdout
    store_key(agent.directory, api)
    await wait_until(lambda: pool.status.online, lambda: agent.log_text)
    assert KEY not in agent.log_text
    assert agent.process is not None and agent.process.poll() is None


async def test_daemon_that_waits_says_what_the_pool_has_yet_to_do(agent: AgentProcess, api: RecordingApi) -> None:
    api.overrides["/monitor/api/token"] = lambda asked: refuse(403, "this monitor waits for approval")
    store_key(agent.directory, api)
    agent.start()
    await wait_until(lambda: "waits for approval" in agent.log_text, lambda: agent.log_text)
    await wait_until(lambda: "waits for approval" in str(agent.report()))
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0

"""Test replaced and missing files of a running agent: it uses the previous ones until the new ones are valid."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from testbed.fixtures.agent import AgentProcess, Pool, pool_of
from testbed.fixtures.broker import TRANSPORTS, Broker
from testbed.tls import Certificate, LocalCa
from testbed.waiting import wait_until

NAME = "renewed.devel.mon.example"


@pytest.fixture
def broker(fresh_broker: Broker) -> Broker:
    """A broker that a test may restart, reached by TLS."""
    return fresh_broker.via(TRANSPORTS[1])


@pytest.fixture
async def pool(broker: Broker) -> AsyncIterator[Pool]:
    async with pool_of(broker, NAME) as made:
        yield made


@pytest.fixture
def agent(tmp_path: Path, broker: Broker) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, broker, NAME) as made:
        yield made


def write_key(agent: AgentProcess, pair: Certificate) -> None:
    agent.directory.key_file.touch(mode=0o600)
    agent.directory.key_file.write_text(pair.key)


def write(agent: AgentProcess, pair: Certificate) -> None:
    write_key(agent, pair)
    agent.directory.certificate_file.write_text(pair.certificate)


def own_ca(agent: AgentProcess, broker: Broker) -> Path:
    """Give the agent its own copy of the broker's CA file, named in its state."""
    ca_file = agent.directory.path / "ca.pem"
    ca_file.write_text(broker.process.ca.certificate)
    text = agent.directory.state_file.read_text()
    agent.directory.state_file.write_text(text.replace(str(broker.address.ca_file), "ca.pem"))
    return ca_file


def connections(agent: AgentProcess) -> int:
    return agent.log_text.count("connected to mqtts://")


async def connected(agent: AgentProcess, count: int) -> None:
    await wait_until(lambda: connections(agent) >= count, lambda: agent.log_text, within=40)


async def reconnects(agent: AgentProcess, broker: Broker) -> None:
    """Restart the broker, and wait until the agent has logged in again with the files that it has."""
    before = connections(agent)
    broker.restart()
    await connected(agent, before + 1)


async def test_new_certificate_is_used_only_after_its_key_arrives(
    agent: AgentProcess, broker: Broker, pool: Pool
) -> None:
    ca = LocalCa()
    write(agent, ca.issue("old"))
    agent.start()
    await connected(agent, 1)
    new = ca.issue("new")
    agent.directory.certificate_file.write_text(new.certificate)
    await wait_until(lambda: "continuing with the previous state" in agent.log_text, lambda: agent.log_text)
    assert connections(agent) == 1, "the connection that works stays"
    await wait_until(lambda: "certificates or key" in str(agent.report()["troubles"]), lambda: str(agent.report()))
    await reconnects(agent, broker)
    assert "there is a new certificate" not in agent.log_text
    write_key(agent, new)
    await wait_until(lambda: "there is a new certificate" in agent.log_text, lambda: agent.log_text)
    await connected(agent, 3)
    await wait_until(lambda: pool.statuses and pool.status.online, lambda: agent.log_text)
    await wait_until(lambda: agent.report()["troubles"] == [], lambda: str(agent.report()))
    assert agent.process is not None and agent.process.poll() is None


Break = Callable[[AgentProcess, Path], object]
BREAKS: dict[str, tuple[Break, str]] = {
    "a broken CA": (lambda agent, ca: ca.write_text("no certificate"), "ca.pem: no certificate or key"),
    "no CA": (lambda agent, ca: ca.unlink(), "ca.pem: must be a readable file"),
    "no key": (lambda agent, ca: agent.directory.key_file.unlink(), "key.pem: No such file"),
    "an open key": (lambda agent, ca: agent.directory.key_file.chmod(0o644), "key.pem: is accessible to others"),
    "no certificate": (lambda agent, ca: agent.directory.certificate_file.unlink(), "cert.pem: is missing, although"),
    "no state": (lambda agent, ca: agent.directory.state_file.unlink(), "state.json: is missing"),
    "half a state": (lambda agent, ca: agent.directory.state_file.write_text('{"name": "'), "state.json: "),
    "no token": (lambda agent, ca: agent.directory.token_file.unlink(), "token: is missing"),
    "an empty token": (lambda agent, ca: agent.directory.token_file.write_text(""), "token: must contain one token"),
}


@pytest.mark.parametrize(("breaks", "warning"), BREAKS.values(), ids=BREAKS)
async def test_running_agent_survives_invalid_or_missing_files(
    agent: AgentProcess, broker: Broker, breaks: Break, warning: str
) -> None:
    ca_file = own_ca(agent, broker)
    write(agent, LocalCa().issue("client"))
    agent.start()
    await connected(agent, 1)
    files = {path: path.read_bytes() for path in agent.directory.path.iterdir() if path.suffix in (".pem", ".json", "")
             if path.is_file() and path.name not in ("lock", "status.json")}  # fmt: skip
    breaks(agent, ca_file)
    await reconnects(agent, broker)
    await wait_until(lambda: warning in agent.log_text, lambda: agent.log_text)
    assert "continuing with the previous" in agent.log_text
    for path, content in files.items():
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_bytes(content)
    await reconnects(agent, broker)
    assert agent.process is not None and agent.process.poll() is None


async def test_agent_started_in_the_middle_of_a_renewal_waits_for_the_rest(agent: AgentProcess, broker: Broker) -> None:
    ca_file = own_ca(agent, broker)
    ca_file.write_text("not yet")
    new = LocalCa().issue("new")
    agent.directory.certificate_file.write_text(new.certificate)
    agent.start()
    await wait_until(lambda: "key.pem: No such file" in agent.log_text, lambda: agent.log_text)
    write_key(agent, new)
    await wait_until(lambda: "ca.pem: no certificate or key" in agent.log_text, lambda: agent.log_text)
    ca_file.write_text(broker.process.ca.certificate)
    await connected(agent, 1)

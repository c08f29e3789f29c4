"""Test that a running daemon takes up whatever changes: real processes, a broker that wants certificates, and an API
by TLS. Nothing is restarted, and no result is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from agent.state import Api, writing_state
from schema.messages import MonitorConfig, ProtocolConfig, encode
from schema.names import IpVersion
from testbed.agent_api import DUE, AgentApi, CertifyingBroker, Issuer, server_pair, told_broker
from testbed.fixtures.agent import TOPICS, AgentProcess, Pool, pool_of
from testbed.fixtures.broker import TRANSPORTS, Broker
from testbed.ntp.server import Fleet
from testbed.ntp.spec import ServerSpec
from testbed.ports import free_port, has_ipv6
from testbed.waiting import wait_until

NAME = "reload1-acc1.devel.mon.example"
KEY = "ntpm_the_first_key_of_this_host"


class World:
    """A broker, an API, NTP servers, and the daemon of a host that is not set up."""

    def __init__(self, broker: Broker, api: AgentApi, agent: AgentProcess, fleet: Fleet) -> None:
        self.broker, self.api, self.agent, self.fleet = broker, api, agent, fleet
        process = broker.process
        assert isinstance(process, CertifyingBroker)
        self.process: CertifyingBroker = process

    @property
    def connections(self) -> int:
        """How often the agent has logged in."""
        return self.agent.log_text.count("connected to mqtts://")

    @property
    def renewals(self) -> int:
        """How often the agent has asked for its configuration."""
        return len(self.api.to("/monitor/api/config"))

    def say(self) -> str:
        """Describe the situation for a failure."""
        return f"{self.agent.log_text}\n{self.agent.report()}\n{[asked.path for asked in self.api.asked]}"

    def set_key(self, key: str) -> None:
        """Store a key, as setup does at its end."""
        directory = self.agent.directory
        api = Api(url=self.api.url, key=key, ca_file=str(self.process.directory / "ca.pem"))
        directory.write_file(msgspec.structs.replace(directory.read_file(), api=api, allow_private_targets=True))

    def allow_private_targets(self) -> None:
        """Let the agent measure servers on this machine."""
        directory = self.agent.directory
        with writing_state(directory):
            directory.write_file(msgspec.structs.replace(directory.read_file(), allow_private_targets=True))

    def ask(self) -> None:
        """Make the daemon ask the API now."""
        self.agent.signal(signal.SIGHUP)

    async def asked(self) -> None:
        """Make the daemon ask the API, and wait for that."""
        before = self.renewals
        self.ask()
        await wait_until(lambda: self.renewals > before, self.say)

    async def connected(self, count: int) -> None:
        """Wait until the agent has logged in so often."""
        await wait_until(lambda: self.connections >= count, self.say)

    async def configure(self, pool: Pool, **statuses: str) -> None:
        """Publish the configuration of these protocols."""
        v4, v6 = self.fleet.specs[0], self.fleet.specs[-1]
        checks = {"v4": f"{v4.address}:{v4.port}", "v6": f"[{v6.address}]:{v6.port}"}
        protocols = {
            ipv: msgspec.convert({"status": status, "samples": 1, "base_checks": [checks[ipv]]}, ProtocolConfig)
            for ipv, status in statuses.items()
        }
        message = MonitorConfig(protocols=msgspec.convert(protocols, dict[IpVersion, ProtocolConfig]))
        await pool.session.publish(TOPICS.config(pool.name), encode(message), retain=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    specs = [
        ServerSpec(address="127.44.1.1", port=0),
        ServerSpec(address="::1" if has_ipv6() else "127.44.2.1", port=0),
    ]
    with Broker(kind=CertifyingBroker) as broker:
        process = broker.process
        assert isinstance(process, CertifyingBroker)
        pair = server_pair(process, tmp_path)
        made = AgentApi(broker.key, issuer=process.issuer, name=NAME, tls=pair)
        with made as api, agent_of(tmp_path, broker, api) as agent:
            api.broker = told_broker(process)
            async with Fleet(specs) as fleet:
                yield World(broker, api, agent, fleet)


def agent_of(base: Path, broker: Broker, api: AgentApi) -> AgentProcess:
    """Return the agent of a host that is not set up."""
    agent = AgentProcess(base, broker.via(TRANSPORTS[1]), NAME)
    agent.directory.token_file.unlink()
    agent.directory.state_file.unlink()
    settings = {"MONITOR_API": api.url, "MONITOR_API_CA_FILE": broker.process.directory / "ca.pem"}
    (base / "defaults").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return agent


@asynccontextmanager
async def measuring(world: World) -> AsyncIterator[Pool]:
    """Run the daemon with the first key until it measures by IPv4."""
    world.api.keys["earlier"] = KEY
    world.api.addresses["earlier"] = {"v4": "192.0.2.1"}
    world.set_key(KEY)
    async with pool_of(world.broker, NAME) as pool:
        await world.configure(pool, v4="active")
        await pool.assign(1, world.fleet.specs[0])
        world.agent.start()
        await wait_until(pool.probing, world.say)
        await wait_until(lambda: pool.batches, world.say)
        yield pool


def content_of(path: Path) -> bytes:
    """Return the content of a file that the agent may have removed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


async def unacknowledged(world: World, pool: Pool) -> set[str]:
    """Stop acknowledging; return the names of files in the spool that the agent has to keep from now on."""
    pool.acknowledging = False
    before = len(pool.batches)
    await wait_until(lambda: len(pool.batches) > before, world.say)
    ids = [batch.id.encode() for _, batch in pool.batches[before:]]
    kept = {path.name for path in world.agent.spooled() if any(one in content_of(path) for one in ids)}
    assert kept, world.say()
    return kept


async def test_setup_certificate_and_name_reach_a_running_daemon(world: World, tmp_path: Path) -> None:
    agent, api, issuer = world.agent, world.api, world.process.issuer
    async with pool_of(world.broker, NAME) as pool:
        # It waits, and says for what.
        agent.start()
        await wait_until(lambda: "waiting, not probing" in agent.log_text, world.say)
        await world.configure(pool, v4="active")
        await pool.assign(1, world.fleet.specs[0])

        # The first set-up: what it brings is nearly over, so that the next renewal is about all of it.
        issuer.used = api.token_used = DUE
        done = await asyncio.to_thread(agent.run, "setup", "--yes", "--hostname", "host.example", timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert agent.process is not None and f"the running agent (process {agent.process.pid})" in done.stdout
        world.allow_private_targets()
        await wait_until(pool.probing, world.say)
        await wait_until(lambda: pool.batches, world.say)
        key = next(iter(api.keys.values()))
        assert key not in agent.log_text + done.stdout + done.stderr

        # Certificate and token are renewed: another connection, and no batch is lost meanwhile.
        kept = await unacknowledged(world, pool)
        before = agent.directory.certificate_file.read_bytes()
        issuer.used = api.token_used = 0.0
        connections, said_before = world.connections, len(agent.log_text)
        await world.asked()
        assert kept <= {path.name for path in agent.spooled()}
        pool.acknowledging = True  # they are sent again on the next connection
        pool.batches.clear()
        await world.connected(connections + 1)
        assert agent.directory.certificate_file.read_bytes() != before
        assert len(set(issuer.requests)) == 2, "with a new key"
        await wait_until(lambda: not kept & {path.name for path in agent.spooled()}, world.say)
        await wait_until(lambda: pool.probing() and pool.batches, world.say)
        assert "has changed" not in agent.log_text[said_before:], "the agent goes on; only its connection is new"

        # What /etc/default says is read at the start only, and status says so.
        said = (await asyncio.to_thread(agent.run, "status", timeout=240)).stdout
        assert f"settings     as in {tmp_path}/defaults" in said and f"{api.url}, asked" in said, said
        (tmp_path / "defaults").write_text("MONITOR_LOG_LEVEL=debug\n")
        said = (await asyncio.to_thread(agent.run, "status", timeout=240)).stdout
        assert "has changed since the agent has read it" in said

        # A new name needs a new token and a new certificate.
        api.name = f"other-{NAME}"
        async with pool_of(world.broker, api.name) as other:
            await world.configure(other, v4="testing")
            await world.asked()
            await wait_until(other.probing, world.say)
            await wait_until(lambda: not pool.status.online, world.say)
        assert agent.process.poll() is None


async def test_moved_broker_paused_protocols_and_refusals_reach_a_running_daemon(world: World) -> None:
    agent, api = world.agent, world.api
    async with measuring(world) as pool:
        # Protocols go live and are paused.
        await world.configure(pool, v4="paused", v6="active")
        await wait_until(lambda: "status is paused" in str(pool.status.protocols.get("v4")), world.say)
        if has_ipv6():
            await wait_until(lambda: pool.probing("v6"), world.say)
        await world.configure(pool, v4="active", v6="paused")
        await wait_until(lambda: pool.probing() and not pool.probing("v6"), world.say)

        # The key is revoked: it stops, and keeps what it has. An operator's pause outlasts all that follows.
        kept = await unacknowledged(world, pool)
        api.refused_keys.add(KEY)
        world.ask()
        await wait_until(lambda: "refuses the API key" in str(pool.status.protocols["v4"].why_not), world.say)
        assert kept <= {path.name for path in agent.spooled()}
        said = await asyncio.to_thread(agent.run, "status", timeout=240)
        assert said.returncode == 1 and "refuses the API key" in said.stdout
        assert (await pool.order("pause")).ok

    # Meanwhile the broker moves, and the API says where. Nobody wants this monitor, so it does not hurry to come back.
    world.broker.stop()
    world.process.listen_at(free_port())
    world.broker.start()
    api.broker = told_broker(world.process)
    await wait_until(lambda: not agent.report()["connected"], world.say)

    # A new key: at once there are a new token and a new certificate, since the former ones may be revoked.
    requests, tokens = len(set(world.process.issuer.requests)), len(api.to("/monitor/api/token"))
    api.keys["second"] = "ntpm_the_second_key_of_this_host"
    world.set_key("ntpm_the_second_key_of_this_host")
    async with pool_of(world.broker, NAME) as pool:
        await wait_until(lambda: "paused by an operator" in str(pool.status.protocols.get("v4")), world.say)
        assert len(set(world.process.issuer.requests)) == requests + 1 and len(api.to("/monitor/api/token")) > tokens
        assert (await pool.order("resume")).ok
        await wait_until(lambda: not kept & {path.name for path in agent.spooled()}, world.say)
        await wait_until(pool.probing, world.say)

        # The monitor is deleted.
        api.status = "deleted"
        world.ask()
        await wait_until(lambda: "has deleted the monitor" in str(pool.status.protocols["v4"].why_not), world.say)
        assert agent.process is not None and agent.process.poll() is None


async def test_broker_that_refuses_the_certificate_makes_the_agent_fetch_another(world: World) -> None:
    """As after the revocation of a certificate: the API key is still good, and so the agent mends it by itself."""
    async with measuring(world) as pool:
        connections, requests = world.connections, len(set(world.process.issuer.requests))
        foreign = Issuer()
        world.process.issuer, former = foreign, world.process.issuer
        world.api.issuer = foreign
        world.broker.restart()
        await wait_until(lambda: pool.session.connected, "the pool does not reconnect")
        await world.connected(connections + 1)
        assert len(set(former.requests)) == requests and len(foreign.requests) >= 1

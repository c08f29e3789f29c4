"""Test the agent as a process with a real broker and simulated servers: every result arrives in the end."""

import asyncio
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from schema.messages import AdHocRequest, BatchCommitted, BatchRefused, Result, assignment_set_hash
from testbed.fixtures.agent import AgentProcess, Pool, pool_of
from testbed.fixtures.broker import PLAIN, TRANSPORTS, Broker, Transport, require_address
from testbed.ntp.server import Fleet
from testbed.ntp.spec import Behaviour, ServerSpec
from testbed.paths import CHECKOUT
from testbed.waiting import wait_until

NUMBERS = itertools.count(1)


@pytest.fixture
def name() -> str:
    return f"agent{next(NUMBERS)}.devel.mon.example"


@pytest.fixture
def broker(broker: Broker, request: pytest.FixtureRequest) -> Broker:
    """The session-scoped broker, reached by plain TCP or by the transport that a test requests."""
    transport: Transport = getattr(request, "param", PLAIN)
    require_address(transport.host)
    return broker.via(transport)


@pytest.fixture
def fresh_broker(fresh_broker: Broker, transport: Transport) -> Broker:
    """A broker of the test's own, reached by each transport in turn."""
    return fresh_broker.via(transport)


by_any_transport = pytest.mark.parametrize("broker", TRANSPORTS, ids=str, indirect=True)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    specs = [
        ServerSpec(address="127.40.1.1", port=0),
        ServerSpec(address="127.40.2.1", port=0, offset=0.2503),
        ServerSpec(address="127.40.3.1", port=0, behaviour=Behaviour.SILENT),
    ]
    async with Fleet(specs) as running:
        yield running


@pytest.fixture
async def pool(broker: Broker, name: str) -> AsyncIterator[Pool]:
    async with pool_of(broker, name) as made:
        yield made
        await made.forget()


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, name: str) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, broker, name) as made:
        yield made


def base_check(fleet: Fleet) -> list[str]:
    good = fleet.specs[0]
    return [f"{good.address}:{good.port}"]


async def test_assigned_servers_are_measured_and_the_spool_is_emptied(
    pool: Pool, agent: AgentProcess, fleet: Fleet
) -> None:
    good, early, silent = fleet.specs
    await pool.configure(base_checks=base_check(fleet), ip="127.41.0.9")
    assigned = [await pool.assign(1, good), await pool.assign(2, early), await pool.assign(3, silent, interval=4.0)]
    agent.start()
    await wait_until(lambda: pool.seen == {1, 2, 3}, lambda: agent.log_text)
    results = {result.server_id: result for _, batch in pool.batches for result in batch.results}
    assert results[1].offset == pytest.approx(0, abs=0.0002)
    assert results[2].offset == pytest.approx(0.2503, abs=0.0002)
    assert (results[3].no_response, results[3].error) == (True, None)
    assert 0 <= time.time() - results[1].ts.timestamp() < 15
    state = pool.status.protocols["v4"]
    assert (state.assignments, state.assignments_hash) == (3, assignment_set_hash(assigned))
    await wait_until(lambda: agent.spooled() == [], "the spool does not empty")
    assert "127.41.0.9" not in agent.log_text, "a loopback address is ours to send from"
    client = fleet.counts(good)
    assert client.requests > 0 and client.ignored == 0


async def test_no_probing_without_configuration_status_or_good_clock(
    pool: Pool, agent: AgentProcess, fleet: Fleet
) -> None:
    good, early, _ = fleet.specs
    await pool.assign(1, good)
    agent.start()
    await wait_until(lambda: pool.status.online, lambda: agent.log_text)
    assert pool.status.protocols == {}
    for fields, reason in (
        ({"status": "pending", "base_checks": base_check(fleet)}, "status is pending"),
        ({"base_checks": []}, "no base-check servers"),
        ({"base_checks": [f"{early.address}:{early.port}"]}, "offset +250."),
        ({"base_checks": ["8.8.8.8.8"]}, "'8.8.8.8.8' is neither an IP address nor a host name"),
    ):
        await pool.configure(**fields)  # type: ignore[arg-type]
        await wait_until(
            lambda reason=reason: reason in str(pool.status.protocols.get("v4")), what=f"{reason}: {pool.status}"
        )
        assert not pool.probing()
    assert pool.batches == []
    await pool.configure(base_checks=base_check(fleet))
    await wait_until(pool.probing, lambda: agent.log_text)
    await wait_until(lambda: pool.batches, lambda: agent.log_text)


async def test_assignments_can_be_added_and_removed_at_run_time(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    good, early, _ = fleet.specs
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, good)
    agent.start()
    await wait_until(lambda: 1 in pool.seen, lambda: agent.log_text)
    left = assignment_set_hash([await pool.assign(2, early)])
    await wait_until(lambda: 2 in pool.seen, lambda: agent.log_text)
    await pool.unassign(1)
    await wait_until(lambda: pool.status.protocols["v4"].assignments_hash == left, lambda: str(pool.status))
    since = pool.status.ts
    assert since is not None
    # Results measured before the change may still arrive, even if they are sent after it.
    await wait_until(lambda: len(measured_since(pool, 2, since)) >= 2, lambda: agent.log_text)
    assert measured_since(pool, 1, since) == []


def measured_since(pool: Pool, server_id: int, since: datetime) -> list[Result]:
    results = (result for _, batch in pool.batches for result in batch.results)
    return [result for result in results if result.server_id == server_id and result.ts > since]


async def test_batch_is_resent_until_acknowledged_even_after_sigkill(
    pool: Pool, agent: AgentProcess, fleet: Fleet
) -> None:
    pool.acknowledging = False
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, fleet.specs[0])
    agent.start()
    first = (await wait_until(lambda: pool.batches, lambda: agent.log_text))[0][1]
    agent.signal(signal.SIGKILL)
    await agent.ended()
    kept = len(agent.spooled())
    assert kept >= 1
    pool.batches.clear()
    agent.start()
    await wait_until(lambda: first in [batch for _, batch in pool.batches], lambda: agent.log_text)
    await pool.unassign(1)
    pool.acknowledging = True
    for batch in {batch.id: batch for _, batch in pool.batches}.values():
        await pool.ack(BatchCommitted(batch=batch.id, stored=1))
    await wait_until(lambda: agent.spooled() == [], "the spool does not empty", within=40)


async def test_refused_batch_is_set_aside_and_reported(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    pool.acknowledging = False
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, fleet.specs[0])
    agent.start()
    _, batch = (await wait_until(lambda: pool.batches, lambda: agent.log_text))[0]
    await pool.ack(BatchRefused(batch=batch.id, reason="no such version"))
    await wait_until(lambda: pool.status.spool.set_aside == 1, lambda: str(pool.status))
    assert "no such version" in agent.log_text
    assert list(agent.directory.spool.glob("v4/set-aside/*"))


@by_any_transport
async def test_sigterm_publishes_offline_within_5_seconds_and_keeps_the_spool(
    pool: Pool, agent: AgentProcess, fleet: Fleet
) -> None:
    pool.acknowledging = False
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, fleet.specs[0])
    agent.start()
    await wait_until(lambda: pool.batches, lambda: agent.log_text)
    began = time.monotonic()
    agent.signal(signal.SIGTERM)
    assert await agent.ended(5) == 0
    assert time.monotonic() - began < 5
    await wait_until(lambda: not pool.status.online, "no offline status", within=1)
    assert pool.status.ts is not None, "the agent said so itself, it is not the will"
    assert agent.spooled()


@by_any_transport
async def test_restarted_agent_gets_its_assignments_from_the_kept_session(
    pool: Pool, agent: AgentProcess, fleet: Fleet
) -> None:
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, fleet.specs[0])
    agent.start()
    await wait_until(lambda: pool.batches, lambda: agent.log_text)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    pool.batches.clear()
    agent.start()
    await wait_until(lambda: pool.batches, lambda: agent.log_text)
    assert all(status.online for status in pool.statuses), "who is back within the will's delay was never gone"


async def test_agents_with_the_same_name_do_not_keep_disconnecting_each_other(
    pool: Pool, agent: AgentProcess, tmp_path: Path, broker: Broker, fleet: Fleet, name: str
) -> None:
    await pool.configure(base_checks=base_check(fleet))
    (tmp_path / "other").mkdir()
    with AgentProcess(tmp_path / "other", broker, name) as other:
        agent.start()
        other.start()

        def kept_away() -> list[bool]:
            return ["another agent has connected" in str(one.report()) for one in (agent, other)]

        await wait_until(lambda: any(kept_away()), lambda: f"{agent.log_text}\n{other.log_text}", within=60)
        away, there = (agent, other) if kept_away()[0] else (other, agent)
        await wait_until(lambda: (there.report() or {}).get("connected"), lambda: there.log_text)
        connections = there.log_text.count("connected to")
        await asyncio.sleep(5)  # only waiting can show that nothing more happens
        assert there.report()["connected"] and there.log_text.count("connected to") == connections
        assert not away.report()["connected"]


async def test_a_second_agent_on_the_same_directory_is_refused(pool: Pool, agent: AgentProcess) -> None:
    agent.start()
    await wait_until(lambda: pool.status.online, lambda: agent.log_text)
    assert agent.process is not None
    second = agent.run("monitor")
    assert second.returncode == 2
    assert f"another agent (process {agent.process.pid}) is running" in second.stderr


async def test_new_name_in_state_json_is_adopted_and_the_old_one_goes_offline(
    pool: Pool, agent: AgentProcess, broker: Broker, fleet: Fleet, name: str
) -> None:
    agent.start()
    await wait_until(lambda: pool.status.online, lambda: agent.log_text)
    agent.directory.state_file.write_text('{"name": "x"}')
    await wait_until(lambda: "continuing with the previous state" in agent.log_text, lambda: agent.log_text)
    other = f"other-{name}"
    async with pool_of(broker, other) as its_pool:
        agent.provision(other)
        await wait_until(lambda: its_pool.status.online, lambda: agent.log_text)
        await wait_until(lambda: not pool.status.online, lambda: agent.log_text)
        await its_pool.forget()


async def test_control_commands_are_executed_and_answered(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    await pool.configure(base_checks=base_check(fleet))
    agent.start()
    await wait_until(pool.probing, lambda: agent.log_text)
    assert (await pool.order("ping")).ok
    assert (await pool.order("pause")).details == {"paused": True}
    await wait_until(lambda: "paused by an operator" in str(pool.status), lambda: str(pool.status))
    assert (await pool.order("resume")).ok
    await wait_until(pool.probing, lambda: str(pool.status))
    checks = fleet.counts(fleet.specs[0]).requests
    assert (await pool.order("recheck")).ok
    await wait_until(lambda: fleet.counts(fleet.specs[0]).requests > checks)
    assert (await pool.order("log-level", level="debug")).ok
    assert (await pool.order("reload")).ok
    assert (await pool.order("status")).details["online"] is True
    unknown = await pool.order("dance")
    assert not unknown.ok and "unknown command" in unknown.message


async def test_ad_hoc_requests_are_answered(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    await pool.configure(base_checks=base_check(fleet))
    early = fleet.specs[1]
    agent.start()
    await wait_until(pool.probing, lambda: agent.log_text)
    answer = await pool.ask("ntp", AdHocRequest(id="one", ip=early.address, port=early.port))
    assert answer.result is not None
    assert answer.result.offset == pytest.approx(0.2503, abs=0.0002)
    metrics = (await pool.ask("metrics", AdHocRequest(id="two"))).metrics
    assert metrics is not None and 'ntppool_agent_probing{protocol="v4"} 1' in metrics
    assert (
        await pool.ask("ntp", AdHocRequest(id="three", ip="0.0.0.0"))
    ).error == "0.0.0.0 is not the address of one host"
    assert "unknown check" in str((await pool.ask("dance", AdHocRequest(id="four"))).error)


async def test_malformed_messages_are_ignored(pool: Pool, agent: AgentProcess, fleet: Fleet, name: str) -> None:
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, fleet.specs[0])
    agent.start()
    await wait_until(lambda: pool.batches, lambda: agent.log_text)
    for topic in ("config/{}", "assignments/{}/v4/7", "acks/{}/v4", "control/{}", "requests/{}/ntp"):
        for payload in (b"\xff\xfe", b"{", b"[]", b'{"id": 5, "protocols": 5}', b"[" * 50_000):
            await pool.session.publish(f"/devel/monitors/{topic.format(name)}", payload)
    for server in ("x", "9" * 500):
        await pool.session.publish(f"/devel/monitors/assignments/{name}/v4/{server}", b"{}")
    pool.batches.clear()
    await wait_until(lambda: pool.batches, lambda: agent.log_text)
    assert agent.process is not None and agent.process.poll() is None


async def test_status_and_version_commands(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    assert "has never run here: start it" in agent.run("status").stdout
    await pool.configure(base_checks=base_check(fleet))
    await pool.assign(1, fleet.specs[0])
    agent.start()
    await wait_until(lambda: (agent.report() or {}).get("last_results"), lambda: agent.log_text)
    said = agent.run("status")
    assert said.returncode == 0
    for words in ("running as process", "connected", "active, probing; 1 servers assigned", "server 1 (127.40.1.1)"):
        assert words in said.stdout
    agent.signal(signal.SIGTERM)
    await agent.ended()
    said = agent.run("status")
    assert (said.returncode, "not running" in said.stdout) == (1, True)
    assert agent.run("version").stdout.startswith("ntppool-agent ")


async def test_status_finds_the_running_service(pool: Pool, agent: AgentProcess, tmp_path: Path, fleet: Fleet) -> None:
    """Ask as a user without a state directory: systemd sets ``STATE_DIRECTORY`` for the service only."""
    agent.start()
    await wait_until(lambda: (agent.report() or {}).get("connected"), lambda: agent.log_text)
    code = (
        "import sys, pathlib, agent.settings as s, agent.__main__ as m;"
        "s.SERVICE_STATE = pathlib.Path(sys.argv.pop(1)); m.main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--env", "devel", "status"]
    environ = {**agent.environ, "HOME": str(tmp_path / "home")}
    environ.pop("XDG_CONFIG_HOME", None)
    asked = await asyncio.to_thread(
        subprocess.run, command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (asked.returncode, asked.stderr) == (0, "")
    assert f"state        {tmp_path}/devel\n" in asked.stdout
    assert agent.process is not None and f"running as process {agent.process.pid}, " in asked.stdout


@by_any_transport
async def test_once_probes_every_server_once_delivers_and_exits(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    await pool.configure(base_checks=base_check(fleet))
    for server_id, spec in enumerate(fleet.specs, start=1):
        await pool.assign(server_id, spec, interval=500)
    ended = await asyncio.to_thread(agent.run, "monitor", "--once")
    assert ended.returncode == 0, ended.stderr
    results = [result.server_id for _, batch in pool.batches for result in batch.results]
    assert sorted(results) == [1, 2, 3]
    assert agent.spooled() == []
    assert pool.statuses == [], "who only passes by is not present"


@by_any_transport
async def test_sanity_only_prints_the_verdict_of_the_clock_check(pool: Pool, agent: AgentProcess, fleet: Fleet) -> None:
    early = fleet.specs[1]
    await pool.configure(base_checks=base_check(fleet))
    said = await asyncio.to_thread(agent.run, "monitor", "--sanity-only")
    assert (said.returncode, "local clock is good" in said.stdout) == (0, True), said
    await pool.configure(base_checks=[f"{early.address}:{early.port}"])
    said = await asyncio.to_thread(agent.run, "monitor", "--sanity-only")
    assert (said.returncode, "offset +250." in said.stdout) == (1, True), said


async def test_check_measures_a_server_and_prints_the_outcome(agent: AgentProcess, fleet: Fleet) -> None:
    _, early, silent = fleet.specs
    said = await asyncio.to_thread(agent.run, "check", "--samples", "1", f"{early.address}:{early.port}")
    assert said.returncode == 0
    assert "offset +250." in said.stdout and "root distance" in said.stdout
    said = await asyncio.to_thread(agent.run, "check", "--samples", "1", f"{silent.address}:{silent.port}")
    assert (said.returncode, "no response" in said.stdout) == (1, True)


async def test_results_are_kept_during_a_broker_outage_and_delivered_later(
    tmp_path: Path, fresh_broker: Broker, fleet: Fleet, name: str
) -> None:
    with AgentProcess(tmp_path, fresh_broker, name) as agent:
        async with pool_of(fresh_broker, name) as pool:
            await pool.configure(base_checks=base_check(fleet))
            await pool.assign(1, fleet.specs[0])
            agent.start()
            await wait_until(lambda: pool.batches, lambda: agent.log_text)
            await asyncio.to_thread(fresh_broker.stop)
            await wait_until(lambda: len(agent.spooled()) >= 3, "measured results are not kept", within=30)
            kept = {path.name for path in agent.spooled()}
            pool.batches.clear()
            await asyncio.to_thread(fresh_broker.start)
            await wait_until(lambda: pool.session.connected, "the pool does not reconnect")
            await pool.configure(base_checks=base_check(fleet))
            await wait_until(
                lambda: not kept & {path.name for path in agent.spooled()}, lambda: agent.log_text, within=40
            )

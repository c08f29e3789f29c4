"""Test a running agent whose disk or file descriptors fail: it reports this, loses no results, and recovers.

Resource limits of the process make its system calls fail, and can be lifted while it runs.
"""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.fixtures.agent import AgentProcess, Pool, pool_of
from testbed.fixtures.broker import Broker
from testbed.ntp.server import Fleet
from testbed.ntp.spec import ServerSpec
from testbed.paths import CHECKOUT
from testbed.waiting import wait_until

NAME = "disk.devel.mon.example"


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with Fleet([ServerSpec(address="127.42.1.1", port=0)]) as running:
        yield running


@pytest.fixture
async def pool(broker: Broker, fleet: Fleet) -> AsyncIterator[Pool]:
    async with pool_of(broker, NAME) as made:
        server = fleet.specs[0]
        await made.configure(base_checks=[f"{server.address}:{server.port}"])
        await made.assign(1, server)
        yield made
        await made.unassign(1)
        await made.forget()


@pytest.fixture
def agent(tmp_path: Path, broker: Broker) -> Iterator[AgentProcess]:
    """An agent that logs through a pipe, since a limit on file sizes would also apply to a log file of its own."""
    with AgentProcess(tmp_path, broker, NAME) as made, made.log.open("ab", buffering=0) as log:
        made.process = subprocess.Popen(made.command("monitor"), cwd=CHECKOUT, env=made.environ, stderr=subprocess.PIPE)

        def copy(pipe: object) -> None:
            for line in pipe:  # type: ignore[attr-defined]  # a pipe of bytes
                log.write(line)

        copying = threading.Thread(target=copy, args=(made.process.stderr,), daemon=True)
        copying.start()
        yield made
        made.process.kill()
        made.process.wait(10)
        copying.join(10)
        assert made.process.stderr is not None
        made.process.stderr.close()


@contextmanager
def limited(agent: AgentProcess, kind: int, to: int) -> Iterator[None]:
    """Set a resource limit of the running agent, and restore it at the end."""
    assert agent.process is not None
    soft, hard = resource.prlimit(agent.process.pid, kind)
    resource.prlimit(agent.process.pid, kind, (to, hard))
    try:
        yield
    finally:
        if agent.process.poll() is None:
            resource.prlimit(agent.process.pid, kind, (soft, hard))


def alive(agent: AgentProcess) -> bool:
    return agent.process is not None and agent.process.poll() is None


async def recovered(pool: Pool, agent: AgentProcess) -> None:
    pool.batches.clear()
    await wait_until(lambda: pool.probing() and pool.batches, lambda: agent.log_text, within=40)
    await wait_until(lambda: agent.spooled() == [], lambda: agent.log_text, within=40)
    assert "Traceback" not in agent.log_text


async def test_unwritable_disk_is_reported_and_the_agent_recovers(pool: Pool, agent: AgentProcess) -> None:
    await wait_until(lambda: pool.batches, lambda: agent.log_text, within=40)
    with limited(agent, resource.RLIMIT_FSIZE, 0):
        why = "results cannot be written to disk: File too large"
        await wait_until(lambda: why in str(pool.status.protocols), lambda: f"{pool.status} {agent.log_text}")
        assert pool.status.online and not pool.probing()
        assert "spool: cannot write a batch: File too large" in agent.log_text
        await wait_until(lambda: "status.json: File too large" in agent.log_text, lambda: agent.log_text)
    await recovered(pool, agent)
    assert pool.status.spool.dropped_results == 0


async def test_agent_with_an_unwritable_disk_ends_in_time_and_logs_the_loss(pool: Pool, agent: AgentProcess) -> None:
    await wait_until(lambda: pool.batches, lambda: agent.log_text, within=40)
    with limited(agent, resource.RLIMIT_FSIZE, 0):
        await wait_until(lambda: "cannot write a batch" in agent.log_text, lambda: agent.log_text)
        began = time.monotonic()
        agent.signal(signal.SIGTERM)
        assert await agent.ended(5.0) == 0
        assert time.monotonic() - began < 5.0
    await wait_until(
        lambda: "results are lost: results cannot be written to disk" in agent.log_text,
        lambda: agent.log_text,
        within=5,
    )


async def test_removed_spool_directory_is_recreated(pool: Pool, agent: AgentProcess) -> None:
    await wait_until(lambda: pool.batches, lambda: agent.log_text, within=40)
    await asyncio.to_thread(shutil.rmtree, agent.directory.spool)
    await recovered(pool, agent)
    assert alive(agent)


async def test_agent_survives_a_temporarily_missing_state_directory(
    pool: Pool, agent: AgentProcess, tmp_path: Path
) -> None:
    pool.acknowledging = False
    await wait_until(lambda: pool.batches, lambda: agent.log_text, within=40)
    agent.directory.path.rename(tmp_path / "gone")
    kept = len(list((tmp_path / "gone").glob("spool/v4/0*")))
    assert kept > 0
    await wait_until(lambda: "No such file" in str(pool.status.protocols), lambda: f"{pool.status} {agent.log_text}")
    assert not agent.directory.path.exists(), "nothing is written where the file system was"
    assert "state.json: is missing" in agent.log_text
    asked = await asyncio.to_thread(agent.run, "status")
    assert asked.returncode == 1 and "not set up for devel: run" in asked.stdout
    (tmp_path / "gone").rename(agent.directory.path)
    pool.acknowledging = True
    await recovered(pool, agent)
    assert agent.report()["set_aside_torn"] == 0


async def test_agent_recovers_after_running_out_of_file_descriptors(pool: Pool, agent: AgentProcess) -> None:
    pool.acknowledging = False
    await wait_until(lambda: pool.batches, lambda: agent.log_text, within=40)
    assert agent.process is not None
    used = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    with limited(agent, resource.RLIMIT_NOFILE, used):
        await wait_until(
            lambda: "Too many open files" in agent.log_text or "too many open files" in agent.log_text, within=40
        )
        waiting = len(agent.spooled())
        await wait_until(
            lambda: "a batch cannot be read now: Too many" in agent.log_text, lambda: agent.log_text, within=60
        )
        assert len(agent.spooled()) >= waiting, "what cannot be read now is not put aside"
    pool.acknowledging = True
    await recovered(pool, agent)
    assert list(agent.directory.spool.glob("v4/set-aside/*")) == []
    assert alive(agent)

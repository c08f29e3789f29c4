"""Test that agents and workers, as real processes, survive lost connections to the broker, and continue to store.

They use TLS, with which libraries have more to do when a connection ends, and thus more opportunities for errors, and
IPv4; a fault run (``test_faults.py``) breaks connections by IPv6.
"""

import asyncio
import dataclasses
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

import testbed.demo.system
from agent.state import write_token
from auth.tokens import Role, sign
from testbed.demo.accounting import settle
from testbed.demo.ledger import results_by_monitor
from testbed.demo.system import System
from testbed.fixtures.mqtt import MqttClient
from testbed.process import Command
from testbed.site import (
    API,
    BROKER,
    WORKERS,
    Site,
    agent_command,
    agent_name,
    free_ntp_port,
    make_site,
    worker_command,
)
from testbed.spools import is_empty
from testbed.waiting import wait_until
from testbed.world import ENV, Monitor, make_world

AGENTS, SERVERS = 2, 2

TOKEN = 8
"""Lifetime of a worker's token in seconds: a running worker renews it, and the token of a stopped one expires."""

SHORT_TOKEN = timedelta(seconds=6)
"""Lifetime of an agent's token that is meant to expire."""

WITH_SHORT_TOKENS = f"""
import datetime, functools, sys
import auth.tokens
auth.tokens.sign = functools.partial(auth.tokens.sign, lifetime=datetime.timedelta(seconds={TOKEN}))
from ops.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def impatient_agent(site: Site, monitor: Monitor) -> Command:
    """Return an agent that waits seconds instead of minutes after another client has taken over its name."""
    handles = site.directory / "handles" / agent_name(monitor).replace(" ", "-")
    handles.mkdir(parents=True)
    argv = [sys.executable, "-P", "-m", "bench.faults.launch", "agent", str(handles)]
    return dataclasses.replace(agent_command(site, monitor), argv=argv)


def worker_with_short_tokens(site: Site, name: str) -> Command:
    """Return a worker whose tokens have a short lifetime."""
    argv = [sys.executable, "-P", "-c", WITH_SHORT_TOKENS, *WORKERS[name]]
    return dataclasses.replace(worker_command(site, name), argv=argv)


class Pool:
    """A running system, with ways to end its connections."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.site = system.site

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition; fail if a process dies."""

        async def holds() -> bool:
            if await condition():
                return True
            assert not self.system.supervisor.deaths, "\n".join(map(str, self.system.supervisor.deaths))
            return False

        await wait_until(holds, what)

    async def flows(self, when: str) -> None:
        """Wait until new results of every monitor reach the ledger, for which every worker must be connected."""
        before = await self.system.read(results_by_monitor)

        async def more() -> bool:
            now = await self.system.read(results_by_monitor)
            return all(now[m.name] >= before[m.name] + 3 for m in self.system.world.monitors)

        await self.until(more, f"results of all monitors, {when}")

    async def results_pile_up(self) -> bool:
        """Return whether every agent has results in its spool."""
        return not any(is_empty(self.site.agent_directory(m)) for m in self.system.world.monitors)

    def log(self) -> str:
        """Return the broker's log."""
        return (self.site.logs / f"{BROKER}.log").read_text()

    def client_id(self, name: str) -> str:
        """Return the client id of the last connection with this name."""
        return re.findall(rf"^New client connected from \S+ as ({re.escape(name)}(?:/\S+)?) \(", self.log(), re.M)[-1]

    async def connects(self, client_id: str, since: int, times: int = 1) -> None:
        """Wait for this many connections of the client in the broker's log, after its first ``since`` characters."""

        async def found() -> bool:
            return self._connections(client_id, since) >= times

        await self.until(found, f"{client_id} connects")

    async def connect_with_short_tokens(self, since: int) -> None:
        """Give agents tokens that expire soon, until each has connected with one."""

        async def all_connected() -> bool:
            left = [monitor for monitor in self.system.world.monitors if not self._connections(monitor.name, since)]
            for monitor in left:
                token = sign(self.site.key, Role.MONITOR, monitor.name, ENV, lifetime=SHORT_TOKEN)
                write_token(self.site.agent_directory(monitor), token)
            return not left

        await self.until(all_connected, "agents connect with tokens that expire soon")

    def _connections(self, client_id: str, since: int) -> int:
        pattern = rf"^New client connected from \S+ as {re.escape(client_id)} \("
        return len(re.findall(pattern, self.log()[since:], re.M))

    async def expires(self, client_id: str, since: int) -> None:
        """Wait until the broker has ended a connection of this client because its token expired."""

        async def found() -> bool:
            return f"{client_id} is disconnected: the token has expired" in self.log()[since:]

        await self.until(found, f"the token of {client_id} expires")

    async def expires_while_stopped(self, name: str) -> None:
        """Stop a worker until its token has expired; return when it has connected again afterwards."""
        client_id = self.client_id(name)
        while True:
            since = len(self.log())
            with self.stopped(name):
                # One that was stopped between two connections has no token that could expire.
                await self.until(partial(self._is_gone, client_id), f"{client_id} has no connection")
            expired = f"{client_id} is disconnected: the token has expired" in self.log()[since:]
            await self.connects(client_id, since)
            if expired:
                return

    async def _is_gone(self, client_id: str) -> bool:
        """Return whether the last line about the client in the broker's log is the end of a connection."""
        its = re.escape(client_id)
        lines = rf"^(New client connected from \S+ as {its} \(|Client {its} |jwt-auth: {its} is disconnected)"
        return not re.findall(lines, self.log(), re.M)[-1].startswith("New ")

    async def take_over(self, name: str, role: Role) -> None:
        """Connect another client with the same client id, and disconnect it; return when the first one is back."""
        # By plain TCP, since it has no certificate of this name.
        address = self.site.broker.address(self.site.broker_address.host)
        client_id, since = self.client_id(name), len(self.log())
        token = sign(self.site.key, role, name, ENV)
        other = MqttClient(address.port, name, token, client_id=client_id, host=address.host)
        await asyncio.to_thread(other.connect)
        await asyncio.to_thread(other.close)
        await self.connects(client_id, since, times=2)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Stop a process with SIGSTOP, and continue it at the end."""
        pid = self.system.supervisor.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Pool]:
    draft = make_world(AGENTS, SERVERS, 1)
    world = make_world(AGENTS, SERVERS, free_ntp_port([spec.address for spec in draft.fleet]))
    site = make_site(directory, None, tls=True, ipv6=False, registering=True)
    async with System(site, world, asyncio.Event()) as system:
        await system.start()
        pool = Pool(system)
        await pool.flows("after the start")
        yield pool
        assert await system.come_to_rest() == [], "all that was measured is in the ledger, and scored"
        await system.stop()
        account = settle(await system.evidence())
        assert account.reasons == ()
        assert (account.lost, account.duplicated, account.waiting, account.unscored) == (0, 0, 0, 0)
        assert system.supervisor.deaths == [], "nobody died of it"
        assert system.hung == []


@pytest.mark.timeout(400)
async def test_processes_survive_lost_connections_and_storing_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed.demo.system, "agent_command", impatient_agent)
    monkeypatch.setattr(testbed.demo.system, "worker_command", worker_with_short_tokens)
    async with running(tmp_path) as pool:
        system, agents = pool.system, [monitor.name for monitor in pool.system.world.monitors]

        for name in WORKERS:
            await pool.take_over(name, Role.SERVER)
        for name in agents:
            await pool.take_over(name, Role.MONITOR)
        await pool.flows("others came with the names of all")

        await system.supervisor.stop([BROKER])
        await pool.until(pool.results_pile_up, "the broker is away")
        await system.restart(BROKER)
        await pool.flows("the broker was stopped and started")

        since = len(pool.log())
        await system.kill(API)
        await system.kill(BROKER)
        await system.restart(BROKER)
        await pool.connect_with_short_tokens(since)
        for name in agents:
            await pool.expires(name, since)
        await pool.until(pool.results_pile_up, "no agent has a token")
        await system.restart(API)
        await pool.flows("the API came back after the tokens had expired")

        await asyncio.gather(*map(pool.expires_while_stopped, WORKERS))
        await pool.flows("the tokens of workers expired")

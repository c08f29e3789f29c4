"""The system of a fault run, with a handle on everything that can be broken."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Final, Self, TypeVar

from sqlalchemy.engine import Connection

from agent.state import StateDirectory
from auth.tokens import Role, sign
from bench.faults.plan import LINKS
from bench.faults.site import DISK_OF_DATABASE, FaultSite, store_all, through
from runtime.db.engine import open_database, reading, transaction, utc_now
from runtime.db.migrate import upgrade
from runtime.mqtt.types import BrokerAddress
from testbed.checker.difference import Difference
from testbed.database import DatabaseServer
from testbed.demo.process import last_lines
from testbed.demo.site import BROKER, FLEET, agent_name, broker_command, fleet_command
from testbed.demo.spools import is_empty
from testbed.demo.supervisor import Supervisor
from testbed.demo.world import ENV
from testbed.load.generator import READY
from testbed.operator import Operator
from testbed.tcp_proxy import TcpProxy

log = logging.getLogger(__name__)
T = TypeVar("T")

DATABASE: Final = "database"
WORKERS: Final = ("ingest 1", "ingest 2", "scorer", "selector")
"""Those that run from the beginning to the end, if nothing happens to them."""

_CONNECT: Final = bytes.fromhex("100c 0004 4d515454 04 02 003c 0000")
_CONNACK: Final = b"\x20"
"""MQTT 3.1.1: a CONNECT without client id or token, keep-alive 60 s; and the first byte of a CONNACK."""

_ANSWERS_WITHIN: Final = 5.0
"""Seconds for one attempt."""

START_WITHIN: Final = 60.0
_OPERATOR: Final = "faults"
_LOOK_EVERY: Final = 0.1


class CannotRun(Exception):
    """Something that a fault run needs is missing or does not work; the message says what."""


class Rig:
    """Broker, database, NTP servers, workers, agents and proxies between them. As a context manager it leaves nothing
    behind."""

    def __init__(self, site: FaultSite, database: DatabaseServer) -> None:
        self.site = site
        self.database = database
        self.supervisor = Supervisor()
        # Signed with the key of now, which changes in a rotation.
        self.operator = Operator(
            site.site.broker_address, _OPERATOR, lambda: sign(site.key, Role.SERVER, _OPERATOR, ENV), ENV
        )
        self.monitors = {agent_name(monitor): monitor for monitor in site.world.monitors}
        broker, ledger = site.site.broker_address, site.site.database
        self.links = {
            LINKS[0]: TcpProxy(broker.host, broker.port, host=broker.host),
            LINKS[1]: TcpProxy(broker.host, broker.port, host=broker.host),
            LINKS[2]: TcpProxy(str(ledger.host), int(ledger.port or 0), host=broker.host),
        }
        self.engine = open_database(ledger)
        self.differences: list[Difference] = []
        """What faults have found while they lasted."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._exit.callback(self.engine.dispose)
        await self._exit.enter_async_context(self.supervisor)
        for link in self.links.values():
            await self._exit.enter_async_context(link)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for name in list(self.supervisor.running):
            self.signal(name, signal.SIGCONT)  # who is stopped could not end
        with suppress(ProcessLookupError, AssertionError):
            self.database.signal(signal.SIGCONT)
        await self._exit.aclose()

    # ---- beginning -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts everything but the load.

        Raises:
            CannotRun: something does not get ready.
        """
        await asyncio.to_thread(self._prepare_ledger)
        await self.supervisor.start(broker_command(self.site.site))
        await self.supervisor.start(fleet_command(self.site.site, self.site.world))
        session: asyncio.Future[None] = asyncio.ensure_future(self.operator.session.run())
        self._exit.push_async_callback(_cancelled, session)
        await self.until(self._is_connected, "a session with the broker")
        for name in WORKERS:
            await self.start_worker(name)
        for monitor in self.site.world.monitors:
            await asyncio.to_thread(self.site.provision, monitor, self.broker_by(LINKS[0]))
            await self.supervisor.start(self.site.agent(monitor))

    def _prepare_ledger(self) -> None:
        upgrade(self.engine)
        now = utc_now().replace(microsecond=0)
        transaction(self.engine, partial(store_all, world=self.site.world, load_names=self.site.load_names, now=now))

    async def _is_connected(self) -> bool:
        return self.operator.session.connected

    def broker_by(self, link: str) -> BrokerAddress:
        """The broker by way of one of the proxies."""
        proxy = self.links[link]
        return replace(self.site.site.broker_address, host=proxy.host, port=proxy.port)

    async def start_worker(self, name: str) -> None:
        """Starts a worker, or starts it again."""
        if name in self.supervisor.running:
            return
        database = through(self.site.site.database, self.links[LINKS[2]])
        await self.supervisor.start(self.site.worker(name, self.broker_by(LINKS[1]), database))

    async def start_load(self, number: int, seed: int) -> str:
        """Starts the load generator of a round, and returns its name when it sends."""
        command, _ = self.site.load(number, self.broker_by(LINKS[0]), seed)
        await self.supervisor.start(command)

        async def sends() -> bool:
            return READY in command.log.read_text(encoding="utf-8", errors="replace")

        await self.until(sends, f"{command.name}, see {command.log}")
        return command.name

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, within: float = START_WITHIN) -> None:
        """Returns when ``condition`` is true.

        Raises:
            CannotRun: it does not become true in time.
        """
        deadline = time.monotonic() + within
        while not await condition():
            if time.monotonic() > deadline:
                raise CannotRun(f"{what}: not within {within:g} s")
            await asyncio.sleep(_LOOK_EVERY)

    # ---- handles ---------------------------------------------------------------------------------------------------

    def lock(self, name: str) -> asyncio.Lock:
        """Whoever breaks something holds its lock until it is whole again."""
        return self._locks.setdefault(name, asyncio.Lock())

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a process, if it runs."""
        if name == DATABASE:
            self.database.signal(number)
        elif (pid := self.supervisor.pid(name)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def reload_broker(self) -> None:
        """Has the broker read keys and certificates again, once it serves: the signal ends one that still starts.

        Raises:
            CannotRun: it does not serve in time.
        """
        deadline = time.monotonic() + START_WITHIN
        while not await asyncio.to_thread(_serves, self.site.site.broker_address):
            if time.monotonic() > deadline:
                raise CannotRun(f"the broker did not serve within {START_WITHIN:g} s")
            await asyncio.sleep(_LOOK_EVERY)
        self.signal(BROKER, signal.SIGHUP)

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        if name == DATABASE:
            await asyncio.to_thread(self.database.stop, kill=True)
        else:
            await self.supervisor.kill(name)

    async def stop(self, name: str) -> None:
        """SIGTERM; an end in order.

        Raises:
            CannotRun: it does not end when it is asked to.
        """
        if name == DATABASE:
            await asyncio.to_thread(self.database.stop)
        elif name in self.supervisor.running and await self.supervisor.stop([name]):
            raise CannotRun(f"{name} did not end when it was asked to; see {self.site.site.logs}")

    async def start_again(self, name: str) -> None:
        """Starts what was killed or stopped."""
        if name == DATABASE:
            await asyncio.to_thread(self.database.start)
        elif name not in self.supervisor.running:
            await self.supervisor.restart(name)

    def agent_state(self, name: str) -> StateDirectory:
        """The state directory of an agent, by the name of its process."""
        return self.site.state(self.monitors[name])

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` reads from the ledger, past the proxies."""
        return await asyncio.to_thread(self._read, work)

    def _read(self, work: Callable[[Connection], T]) -> T:
        with reading(self.engine) as connection:
            return work(connection)

    def spools_are_empty(self) -> bool:
        """Whether no batch of an agent waits."""
        return all(is_empty(self.site.state(monitor)) for monitor in self.site.world.monitors)

    def end_of_log(self, name: str) -> str:
        """The last lines that a process has said."""
        return last_lines(self.site.site.logs / f"{name.replace(' ', '-')}.log")


async def _cancelled(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


__all__ = ["BROKER", "DATABASE", "DISK_OF_DATABASE", "FLEET", "WORKERS", "CannotRun", "Rig"]


def _serves(address: BrokerAddress) -> bool:
    """Whether the broker itself answers: with a TLS handshake, or by refusing a client without a token.

    A refused handshake counts, too: a broker that reloaded while certificate and key were being replaced has neither
    until its next reload.
    """
    try:
        if address.ca_file is not None:
            return bool(ssl.get_server_certificate((address.host, address.port), timeout=_ANSWERS_WITHIN))
        with socket.create_connection((address.host, address.port), timeout=_ANSWERS_WITHIN) as stranger:
            stranger.sendall(_CONNECT)
            return stranger.recv(1) == _CONNACK
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False

"""Run the system of a fault run, with a handle on everything that can be broken."""

import asyncio
import logging
import os
import signal
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, Self, TypeVar

from sqlalchemy.engine import URL

from agent.state import StateDirectory
from auth.tokens import Role, sign
from bench.faults.plan import LINKS, link_to
from bench.faults.site import DISK_OF_DATABASE, FaultSite, store_all, through
from runtime.db.dsn import servers_of
from runtime.db.engine import transaction, utc_now
from runtime.db.migrate import upgrade
from runtime.mqtt.types import BrokerAddress
from testbed.checker.difference import Difference
from testbed.database import DatabaseServer
from testbed.galera import several
from testbed.load.generator import READY
from testbed.operator import Operator
from testbed.ports import ADDRESS
from testbed.process import last_lines
from testbed.registrar import Registrar
from testbed.site import API, API_READY, BROKER, FLEET, FLEET_READY, agent_name, fleet_command
from testbed.spools import is_empty
from testbed.stack import CannotRun, Stack
from testbed.tcp_proxy import TcpProxy
from testbed.world import ENV

log = logging.getLogger(__name__)
T = TypeVar("T")

WORKERS: Final = ("ingest 1", "ingest 2", "scorer", "selector", API)
"""The workers that run from the beginning to the end, unless a fault hits them."""

_STARTED: Final = (*WORKERS, "ingest 3", "ingest 4")
"""All workers that may run."""

_CONNECT: Final = bytes.fromhex("100c 0004 4d515454 04 02 003c 0000")
_CONNACK: Final = b"\x20"
"""MQTT 3.1.1: a CONNECT without client id or token, keep-alive 60 s; and the first byte of a CONNACK."""

_ANSWERS_WITHIN: Final = 5.0
"""Seconds for one attempt."""

_OPERATOR: Final = "faults"


class Rig(Stack):
    """Broker, database, NTP servers, workers, agents and proxies between them."""

    start_within_seconds = 60.0

    def __init__(self, fault_site: FaultSite, databases: Mapping[str, DatabaseServer]) -> None:
        super().__init__(fault_site.site)
        self.fault_site = fault_site
        self.databases = databases
        """The database, or the nodes of the cluster, by name."""
        # Signed with the current key, which changes in a rotation.
        self.operator = Operator(
            self.site.broker_address, _OPERATOR, lambda: sign(fault_site.key, Role.SERVER, _OPERATOR, ENV), ENV
        )
        self.monitors = {agent_name(monitor): monitor for monitor in fault_site.world.monitors}
        broker = self.site.broker_address
        self.links = {
            LINKS[0]: TcpProxy(broker.host, broker.port, host=broker.host),
            LINKS[1]: TcpProxy(broker.host, broker.port, host=broker.host),
            **{
                link_to(name): TcpProxy(str(server.host), int(server.port or 0), host=broker.host)
                for name, server in zip(databases, servers_of(self.site.database), strict=True)
            },
            # The API knows a host by the address from which it registers.
            LINKS[3]: TcpProxy(ADDRESS, fault_site.place.port, host=ADDRESS, keeps_source=True),
        }
        self.differences: list[Difference] = []
        """Differences that faults detected while they lasted."""
        self._locks: dict[str, asyncio.Lock] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for link in self.links.values():
            await self._exit.enter_async_context(link)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for name in list(self.supervisor.running):
            self.signal(name, signal.SIGCONT)  # a stopped process could not end
        for database in self.databases.values():
            with suppress(ProcessLookupError, AssertionError):
                database.signal(signal.SIGCONT)
        await super().__aexit__(*exception)

    # ---- beginning -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything but the load.

        Raises:
            CannotRun: a process does not become ready.
        """
        await asyncio.to_thread(self._prepare_ledger)
        await self.start_broker()
        await self.start_process(fleet_command(self.site, self.fault_site.world.fleet), FLEET_READY)
        await self.connect(self.operator.session)
        for name in WORKERS:
            await self.start_worker(name)
        sign, log = API_READY.encode(), self.site.log_of(API)
        await self.until(lambda: sign in log.read_bytes(), "start of the API")
        await asyncio.to_thread(self.fault_site.make_disks)
        place = replace(self.fault_site.place, port=self.links[LINKS[3]].port)
        await Registrar(replace(self.site, api=place), self.fault_site.world, self.engine).register_all()
        for monitor in self.fault_site.world.monitors:
            await self.supervisor.start(self.fault_site.agent(monitor))

    def _prepare_ledger(self) -> None:
        upgrade(self.engine)
        now = utc_now().replace(microsecond=0)
        world, load_names = self.fault_site.world, self.fault_site.load_names
        transaction(self.engine, partial(store_all, world=world, load_names=load_names, now=now))

    def broker_by(self, link: str) -> BrokerAddress:
        """Return the broker's address through one of the proxies."""
        proxy = self.links[link]
        return replace(self.site.broker_address, host=proxy.host, port=proxy.port)

    async def start_worker(self, name: str) -> None:
        """Start a worker, also again."""
        if name in self.supervisor.running:
            return
        addresses = self.broker_by(LINKS[1]), self._ledger_of(name), self.broker_by(LINKS[0])
        await self.supervisor.start(self.fault_site.worker(name, *addresses))

    def _ledger_of(self, worker: str) -> URL:
        """Return the ledger's URL for a worker, through the proxies. Each worker begins with another node."""
        links = [self.links[link_to(name)] for name in self.databases]
        first = _STARTED.index(worker) % len(links)
        direct = servers_of(self.site.database)[0]
        return several([through(direct, link) for link in (*links[first:], *links[:first])])

    async def start_load(self, number: int, seed: int) -> str:
        """Start a round's load generator; return its name when it sends."""
        command, _ = self.fault_site.load(number, self.broker_by(LINKS[0]), seed)
        await self.start_process(command, READY)
        return command.name

    def check(self) -> None:
        """Do nothing: a dead process is a finding here, and the run starts it again."""

    # ---- handles ---------------------------------------------------------------------------------------------------

    def lock(self, name: str) -> asyncio.Lock:
        """Return the lock that a fault holds from break to repair."""
        return self._locks.setdefault(name, asyncio.Lock())

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process, if it runs."""
        if name in self.databases:
            self.databases[name].signal(number)
        elif (pid := self.supervisor.pid(name)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def reload_broker(self) -> None:
        """Make the broker read keys and certificates again, once it serves: the signal would end a starting one.

        Raises:
            CannotRun: it does not serve in time.
        """
        address = self.site.broker_address
        await self.until(lambda: asyncio.to_thread(_serves, address), "an answer of the broker")
        self.signal(BROKER, signal.SIGHUP)

    async def kill(self, name: str) -> None:
        """Kill a process with SIGKILL."""
        if name in self.databases:
            await asyncio.to_thread(self.databases[name].stop, kill=True)
        else:
            await self.supervisor.kill(name)

    async def stop(self, name: str) -> None:
        """Stop a process in order with SIGTERM.

        Raises:
            CannotRun: it does not end in order.
        """
        if name in self.databases:
            await asyncio.to_thread(self.databases[name].stop)
        elif name in self.supervisor.running and await self.supervisor.stop([name]):
            raise CannotRun(f"{name} did not end after SIGTERM; see {self.site.logs}")

    async def start_again(self, name: str) -> None:
        """Start a killed or stopped process again."""
        if name in self.databases:
            await asyncio.to_thread(self.databases[name].start)
        elif name not in self.supervisor.running:
            await self.supervisor.restart(name)

    def agent_state(self, name: str) -> StateDirectory:
        """Return an agent's state directory, by the name of its process."""
        return self.fault_site.state(self.monitors[name])

    def spools_are_empty(self) -> bool:
        """Return whether no agent has a batch in its spool."""
        return all(is_empty(self.fault_site.state(monitor)) for monitor in self.fault_site.world.monitors)

    def end_of_log(self, name: str) -> str:
        """Return the last lines of a process's log."""
        return last_lines(self.site.log_of(name))


__all__ = ["BROKER", "DISK_OF_DATABASE", "FLEET", "WORKERS", "Rig"]


def _serves(address: BrokerAddress) -> bool:
    """Return whether the broker itself answers: with a TLS handshake, or by refusing a client without a token.

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

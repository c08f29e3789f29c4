"""Define the files and processes of a fault run: like the demo's, but with proxies, the handles of
:mod:`bench.faults.launch`, and small disks."""

import dataclasses
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from agent.state import StateDirectory
from auth.ca.files import FileAuthority
from auth.tokens import SigningKey
from bench.faults.disks import make_disk, remove_disk
from runtime.db.queue import REVIEWS
from runtime.mqtt.types import BrokerAddress
from schema.names import short_name
from schema.tables import accounts, monitors
from testbed.demo.store import store_world
from testbed.load.spec import LoadSpec, Member, Shares, write_spec
from testbed.process import Command
from testbed.site import (
    API,
    WORKERS,
    ApiPlace,
    Site,
    agent_name,
    agent_settings,
    certify_monitors,
    python_command,
    write_private,
)
from testbed.tcp_proxy import TcpProxy
from testbed.world import ENV, Monitor, World

LAUNCH: Final = "bench.faults.launch"
LOAD: Final = "load"

DISK_OF_AGENT: Final = 4
DISK_OF_DATABASE: Final = 2048
"""MiB."""

_SHARES: Final = Shares(bad=0.03, late=0.03, duplicate=0.05, malformed=0.02)
_BATCH: Final = 10
_DRAIN: Final = 150.0
"""Seconds to acknowledge everything sent, once all faults are repaired."""

_CERTIFICATE_MINUTES: Final = 2
"""Lifetime of agents' certificates, the least that the API allows."""

_COMMANDS: Final = {**WORKERS, API: (API,)}


class FaultSite:
    """Files and commands of a run."""

    def __init__(self, site: Site, world: World, load: int, disks: bool) -> None:
        self.site = site
        self.world = world
        self.key: SigningKey = site.key
        """The current key that signs tokens."""
        self.key_file = site.directory / "jwt.key"
        self.load_names = [f"load{number}.{ENV}.mon.example" for number in range(1, load + 1)]
        self.disks = disks
        self._pepper_file = site.directory / "api-keys.pepper"
        # The API keys must outlast the key that signs tokens.
        write_private(self._pepper_file, self.key_file.read_text(encoding="utf-8"))
        certify_monitors(self.authority, self._load_certificates, self.load_names)

    @property
    def place(self) -> ApiPlace:
        """Where the API is."""
        assert self.site.api is not None
        return self.site.api

    @property
    def authority(self) -> FileAuthority:
        """The CA of agents, load, broker and API."""
        return self.place.authority

    @property
    def _load_certificates(self) -> Path:
        return self.site.directory / "load-certificates"

    def handles(self, name: str) -> Path:
        """Return the directory for a process's requests and its journal."""
        path = self.site.directory / "handles" / name.replace(" ", "-")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def worker(self, name: str, broker: BrokerAddress, database: URL, for_agents: BrokerAddress) -> Command:
        """Return a worker's command; ``name`` is the service, with a number if there are several: ``ingest 2``.

        Args:
            for_agents: the broker's address that the API tells agents.
        """
        arguments = [str(self.handles(name)), *_COMMANDS[name.partition(" ")[0]]]
        settings = dataclasses.replace(self.site, broker_address=broker, database=database).settings()
        settings |= {
            "API_BROKER_HOST": for_agents.host,
            "API_BROKER_PORT": str(for_agents.port),
            "API_KEY_PEPPER_FILE": str(self._pepper_file),
            "CERTIFICATE_MINUTES": str(_CERTIFICATE_MINUTES),
        }
        return python_command(self.site, name, LAUNCH, "worker", *arguments, settings=settings)

    def agent(self, monitor: Monitor, copy: bool = False) -> Command:
        """Return the command of this monitor's agent, or of another one of the same name."""
        name = agent_name(monitor) + (" copy" if copy else "")
        settings = agent_settings(self.state(monitor, copy).path.parent)
        return python_command(self.site, name, LAUNCH, "agent", str(self.handles(name)), settings=settings)

    def state(self, monitor: Monitor, copy: bool = False) -> StateDirectory:
        """Return an agent's state directory."""
        short = short_name(monitor.name) + ("-copy" if copy else "")
        return StateDirectory(self.site.directory / "agents" / short, ENV)

    def make_disks(self) -> None:
        """Give each agent a separate disk, if this machine allows it."""
        for monitor in self.world.monitors if self.disks else ():
            make_disk(self.state(monitor).path.parent, DISK_OF_AGENT)

    def copy_identity(self, monitor: Monitor) -> None:
        """Give the other agent of the same name what this one has: key, token and certificate, but not the spool."""
        here, there = self.state(monitor), self.state(monitor, copy=True)
        there.prepare()
        for file in (here.state_file, here.broker_ca_file, here.token_file, here.certificate_file, here.key_file):
            shutil.copy2(file, there.path / file.name)

    def load(self, number: int, broker: BrokerAddress, seed: int) -> tuple[Command, Path]:
        """Return the command of a round's load generator, and its record."""
        name = f"{LOAD} {number}"
        record = self.site.directory / f"load-{number}.jsonl"
        spec = LoadSpec(
            env=ENV,
            host=broker.host,
            port=broker.port,
            ca_file=broker.ca_file,
            certificates=self._load_certificates,
            key_file=self.key_file,
            record=record,
            members=[Member(name=name) for name in self.load_names],
            listen=True,
            batch=_BATCH,
            shares=_SHARES,
            drain=_DRAIN,
            seed=seed,
        )
        path = self.site.directory / f"load-{number}.json"
        write_spec(path, spec)
        return python_command(self.site, name, LAUNCH, "load", str(self.key_file), str(path)), record


def store_all(connection: Connection, world: World, load_names: Sequence[str], now: datetime) -> None:
    """Store the demo's world without its monitors, which register, and monitors for the load in separate accounts and
    networks."""
    ids = store_world(connection, world, now)
    connection.execute(sa.insert(accounts), [{"name": name, "flags": {}, "created_on": now} for name in load_names])
    owners = {row.name: row.id for row in connection.execute(sa.select(accounts.c.id, accounts.c.name))}
    rows: list[dict[str, Any]] = [
        {
            "tls_name": name,
            "ip": f"10.{number}.0.1",
            "ip_version": "v4",
            "account_id": owners[name],
            "status": "active",
            "config": "{}",
            "created_on": now,
        }
        for number, name in enumerate(load_names, start=1)
    ]
    connection.execute(sa.insert(monitors), rows)
    REVIEWS.add(connection, ids.values(), now)


def through(url: URL, proxy: TcpProxy) -> URL:
    """Return ``url`` by way of ``proxy``."""
    return url.set(host=proxy.host, port=proxy.port)


def remove(directory: Path) -> None:
    """Remove all files of a run."""
    for path in (*directory.glob("db*"), *directory.glob("agents/*")):
        remove_disk(path)
    shutil.rmtree(directory, ignore_errors=True)

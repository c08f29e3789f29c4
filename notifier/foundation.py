"""Watch what all work depends on: the database, its nodes, the broker and the clock, as this process sees them."""

import socket
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from notifier.model import Fact, Key
from notifier.rules import BROKER_AWAY, CLOCK_DOUBTED, DATABASE_AWAY, NODE_AWAY
from notifier.texts import plain
from runtime.db.dsn import place_of_server, servers_of
from runtime.db.engine import open_database, reading
from runtime.worker import Worker
from schema.limits import STATUS_REFRESH

UNSETTLING: Final = STATUS_REFRESH.total_seconds()
"""Seconds of an outage after which the presence of agents is out of date."""

SETTLES_WITHIN: Final = STATUS_REFRESH.total_seconds() + 60.0
"""Seconds after an outage until all agents have said again that they are there."""


class Foundation:
    """Facts about the dependencies of one worker."""

    def __init__(self, worker: Worker, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._monotonic = monotonic
        self._host = plain(socket.gethostname(), 100)
        self._broker_expected = False
        self._broker_well = monotonic()
        self._well = monotonic()
        self._unsettled_at = monotonic()
        self.nodes: Mapping[str, str | None] = {}
        """What is wrong with each node of the database; None for a node that works."""

    def expect_broker(self) -> None:
        """Watch the broker from now on, since the session with it begins."""
        self._broker_expected = True
        self._broker_well = self._monotonic()

    @property
    def settled(self) -> bool:
        """Whether neither database nor broker were away for long, a short time ago."""
        return self._monotonic() - self._unsettled_at > SETTLES_WITHIN

    def facts(self, now: datetime) -> list[Fact]:
        """Return the facts of ``now`` (naive UTC), and note whether an outage is long."""
        found = [self._database(now), self._broker(now), self._clock()]
        moment = self._monotonic()
        if not any(fact.bad for fact in found[:2]):
            self._well = moment
        elif moment - self._well >= UNSETTLING:
            self._unsettled_at = moment
        return found + [self._node(name, why) for name, why in sorted(self.nodes.items())]

    def _database(self, now: datetime) -> Fact:
        finding = self._worker.contact.finding()
        longest = self._worker.contact.longest()
        return Fact(
            key=Key(DATABASE_AWAY, self._host),
            bad=longest is not None or not finding.ok,
            name=self._host,
            detail=plain(finding.detail or f"the last answer came {finding.age:.0f} s ago", 300),
            since=now - timedelta(seconds=finding.age),
        )

    def _broker(self, now: datetime) -> Fact:
        connected = self._worker.broker.connected
        if connected:
            self._broker_well = self._monotonic()
        away = self._monotonic() - self._broker_well
        return Fact(
            key=Key(BROKER_AWAY, self._host),
            bad=not connected if self._broker_expected else None,
            name=self._host,
            detail=f"{'' if connected else 'not '}connected to {plain(str(self._worker.broker.address), 200)}",
            since=now - timedelta(seconds=away),
        )

    def _clock(self) -> Fact:
        doubt = self._worker.clock.doubt
        detail = plain(doubt or "trusted", 300)
        return Fact(key=Key(CLOCK_DOUBTED, self._host), bad=doubt is not None, name=self._host, detail=detail)

    def _node(self, name: str, why: str | None) -> Fact:
        detail = plain(why or "works", 300)
        return Fact(key=Key(NODE_AWAY, f"{name} from {self._host}"), bad=why is not None, name=name, detail=detail)


def node_urls(url: URL, nodes: str) -> dict[str, URL]:
    """Return the URL of each node of the database that is watched by itself.

    Args:
        url: the ledger's, with user, database and TLS of all nodes; they are its servers, if it has several.
        nodes: other nodes instead, such as ``db1,db2:3307``: those behind a proxy, for example.
    """
    servers = servers_of(url)
    if not nodes.strip():
        return {place_of_server(server): server for server in servers} if len(servers) > 1 else {}
    found = {}
    for node in (part.strip() for part in nodes.split(",")):
        if node:
            host, _, port = node.rpartition(":") if node.rpartition(":")[2].isdigit() else (node, "", "")
            found[node] = servers[0].set(host=host.strip("[]"), port=int(port) if port else servers[0].port)
    return found


class NodeProbes:
    """Ask each node of the database whether it works. Blocks; one connection to each stays open."""

    def __init__(self, urls: Mapping[str, URL], reread: Callable[[], Mapping[str, URL]]) -> None:
        def current(name: str) -> URL:
            return reread().get(name, urls[name])

        # Passwords are rotated; a node with another name needs a restart.
        self._engines: dict[str, Engine] = {
            name: open_database(url, reread=partial(current, name)) for name, url in urls.items()
        }

    def ask(self) -> dict[str, str | None]:
        """Return what is wrong with each node; None for a node that works."""
        return {name: _trouble(engine) for name, engine in self._engines.items()}


def _trouble(engine: Engine) -> str | None:
    try:
        with reading(engine) as connection:
            ready = connection.execute(_READY).first()
    except Exception as error:  # whatever it is, this node does not work
        reason = getattr(error, "orig", error)
        return str(reason.args[-1] if reason.args else reason)  # those of the driver have a number and a text
    # Only a node of Galera has the variable.
    return None if ready is None or str(ready[1]).upper() == "ON" else "wsrep_ready is OFF: it has no quorum, or joins"


_READY: Final = sa.text("SHOW GLOBAL STATUS LIKE 'wsrep_ready'")

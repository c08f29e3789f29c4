"""Run a Galera cluster of MariaDB on this machine: nodes on free loopback ports, which replicate to each other.

``scripts/bootstrap --galera`` unpacks the provider and the scripts that send a node's data to another one.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pymysql
import sqlalchemy as sa
from sqlalchemy.engine import URL

from runtime.db.dsn import dsn_text, parse_dsn, place_of_server
from testbed.database import DatabaseServer, MariaDb
from testbed.ports import ADDRESS, free_port

NODES: Final = 3
"""The fewest of which one may fail."""

_RECOVERED: Final = re.compile(r"Recovered position: ([0-9a-f-]{36}:-?[0-9]+)")

_GCACHE: Final = "64M"
"""Memory of changes, from which a node that was away is brought up to date without a copy of all data."""


def galera_directory() -> Path:
    """Return the directory in the virtual environment where ``scripts/bootstrap --galera`` puts Galera."""
    return Path(sys.prefix) / "galera"


def _provider() -> Path:
    return galera_directory() / "libgalera_smm.so"


class GaleraNode(MariaDb):
    """A node. Its data come from the others, unless it begins a new cluster."""

    start_within_seconds = 180.0
    """A node that joins waits for the others, and perhaps for a copy of all data."""

    def __init__(self, directory: Path, number: int, *, buffer_pool: str, redo_log: str | None) -> None:
        super().__init__(directory, buffer_pool=buffer_pool, redo_log=redo_log)
        self.label = f"node {number}"
        self.group_port = free_port()
        self._others: Sequence[GaleraNode] = ()
        self._begins = False
        self._position: str | None = None
        self._transfer_ports = free_port(), free_port()

    def join(self, others: "Sequence[GaleraNode]") -> None:
        """Set the other nodes of the cluster."""
        self._others = others

    def begin(self) -> None:
        """Start as the first node of a new cluster; later starts join."""
        self._begins = True
        try:
            self.start()
        finally:
            self._begins = False

    def launch(self) -> None:
        self._position = None
        if (self.data / "grastate.dat").exists():
            self._position = self._recover()
        super().launch()

    def _recover(self) -> str | None:
        """Return the last transaction in the data of a node that has ended, as the service of Debian does before a
        start: without it, a node that was killed would need a copy of all data."""
        command = [*self._program(), *self._settings(), "--wsrep-recover"]
        ended = subprocess.run(command, capture_output=True, text=True, env=self._environment(), check=False)
        found = _RECOVERED.search(ended.stderr + ended.stdout)
        return None if found is None else found[1]

    def prepare(self) -> None:
        """Prepare for the first start, in which the node gets all data from another one."""
        self.data.mkdir()

    def isolate(self, isolated: bool) -> None:
        """Cut the node off from the others, or let it come back. Clients still reach it."""
        self._administer(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(isolated)}'")

    def answers(self) -> bool:
        """Return whether the node executes statements, and is in one component with all others that answer.

        A node that was stopped does not know yet that the others have removed it, and calls itself synchronous.
        """
        mine = self._component()
        others = (node._component() for node in self._others)
        return mine is not None and all(theirs in (None, mine) for theirs in others)

    def _component(self) -> str | None:
        """Return the number of the component in which the node is synchronous, or None."""
        try:
            synced = self.state("wsrep_local_state_comment") == "Synced" and self.state("wsrep_ready") == "ON"
            return self.state("wsrep_cluster_conf_id") if synced else None
        except sa.exc.OperationalError:
            return None

    def state(self, variable: str) -> str:
        """Return a status variable of the node."""
        engine = self.administration()
        with engine.connect() as connection:
            return str(connection.exec_driver_sql(f"SHOW STATUS LIKE '{variable}'").one()[1])

    def administration(self) -> sa.Engine:
        # A node outside of the cluster executes only SET and SHOW, and a frozen one nothing.
        return sa.create_engine(
            self.url("mysql"),
            poolclass=sa.NullPool,
            connect_args={"ssl_disabled": True, "connect_timeout": 5, "read_timeout": 5},
        )

    def _administer(self, statement: str) -> None:
        connection = pymysql.connect(host=ADDRESS, port=self.port, user="root", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def _environment(self) -> dict[str, str]:
        inherited = super()._environment()
        return {
            **inherited,
            "PATH": f"{galera_directory() / 'bin'}:{inherited.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        }

    def _settings(self) -> list[str]:
        ist, sst = self._transfer_ports
        options = {
            "gmcast.listen_addr": f"tcp://{ADDRESS}:{self.group_port}",
            "ist.recv_addr": f"{ADDRESS}:{ist}",
            "gcache.size": _GCACHE,
        }
        group = "" if self._begins else ",".join(f"{ADDRESS}:{node.group_port}" for node in (*self._others, self))
        return [
            *super()._settings(),
            "--wsrep-on=ON",
            f"--wsrep-provider={_provider()}",
            f"--wsrep-cluster-address=gcomm://{group}",
            "--wsrep-cluster-name=testbed",
            f"--wsrep-node-name={self.label}",
            f"--wsrep-node-address={ADDRESS}",
            f"--wsrep-sst-receive-address={ADDRESS}:{sst}",
            "--wsrep-sst-method=rsync",
            "--wsrep-slave-threads=2",
            *([f"--wsrep-start-position={self._position}"] if self._position else []),
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in options.items())}",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
        ]


class GaleraCluster:
    """All nodes of a cluster, one for each of the existing, empty ``directories``."""

    def __init__(self, directories: Sequence[Path], *, buffer_pool: str = "128M", redo_log: str | None = None) -> None:
        self.nodes = [
            GaleraNode(path, number, buffer_pool=buffer_pool, redo_log=redo_log)
            for number, path in enumerate(directories, start=1)
        ]
        for node in self.nodes:
            node.join([other for other in self.nodes if other is not node])

    def start(self) -> None:
        """Create and start all nodes.

        Raises:
            FileNotFoundError: MariaDB or Galera is not installed.
            DatabaseFailed: a node does not start.
        """
        if not _provider().exists():
            raise FileNotFoundError(f"Galera is not in {galera_directory()}; run scripts/bootstrap --galera")
        first, *others = self.nodes
        first.install()
        first.begin()
        for node in others:
            node.prepare()
            node.start()

    def create(self, database: str) -> URL:
        """Create an empty database, and return a URL with all nodes."""
        self.nodes[0].create(database)
        return several([node.url(database) for node in self.nodes])

    @property
    def pid(self) -> int | None:
        """The process id of the first node."""
        return self.nodes[0].pid

    def stop(self, *, kill: bool = False) -> None:
        """Stop all nodes, the last one first."""
        for node in reversed(self.nodes):
            node.stop(kill=kill)


@contextmanager
def temporary_cluster(*, buffer_pool: str = "128M", redo_log: str | None = None) -> Iterator[GaleraCluster]:
    """Run a cluster, and remove it with all its data at the end; raises the errors of :meth:`GaleraCluster.start`."""
    with tempfile.TemporaryDirectory(prefix="ntpdb") as directory:
        paths = [Path(directory) / f"n{number}" for number in range(1, NODES + 1)]
        for path in paths:
            path.mkdir()
        cluster = GaleraCluster(paths, buffer_pool=buffer_pool, redo_log=redo_log)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop(kill=True)


def several(urls: Sequence[URL]) -> URL:
    """Return a URL with the servers of these URLs, which have one each, in their order; all else is of the first."""
    first = urls[0]
    servers = ",".join(place_of_server(url) for url in urls)
    text = dsn_text(first, hide_password=False)
    return parse_dsn(text.replace(place_of_server(first), servers, 1))


def start_together(nodes: Sequence[DatabaseServer]) -> None:
    """Start nodes that wait for each other.

    Raises:
        DatabaseFailed: one does not start.
    """
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait()

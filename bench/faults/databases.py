"""Run the servers of a fault run's ledger: one database, or the nodes of a Galera cluster, on small disks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from bench.faults.disks import NoDisks, make_disk
from bench.faults.plan import DATABASE
from bench.faults.site import DISK_OF_DATABASE
from testbed.database import DatabaseServer
from testbed.galera import NODES, GaleraCluster
from testbed.stack import CannotRun

_BUFFER_POOL: Final = "128M"
_REDO_LOG: Final = "64M"


@dataclass(frozen=True, slots=True)
class Databases:
    """The running servers, by the names of their processes, and how to create a database."""

    servers: Mapping[str, DatabaseServer]
    create: Callable[[str], URL]
    """Create an empty database; return a URL with all servers."""


@contextmanager
def one_database(kind: type[DatabaseServer], directory: Path, *, disk: bool) -> Iterator[Databases]:
    """Run a database in ``directory``, which gets its log at the end.

    Raises:
        CannotRun: it does not start.
    """
    path = directory / "db"
    _make(path, disk)
    server = kind(path, buffer_pool=_BUFFER_POOL, redo_log=_REDO_LOG)

    def start() -> None:
        server.install()
        server.start()

    found = Databases({DATABASE: server}, server.create)
    with _started(found, start, directory):
        yield found


@contextmanager
def cluster(directory: Path, *, disk: bool) -> Iterator[Databases]:
    """Run a Galera cluster, like :func:`one_database`."""
    paths = [directory / f"db{number}" for number in range(1, NODES + 1)]
    for path in paths:
        _make(path, disk)
    made = GaleraCluster(paths, buffer_pool=_BUFFER_POOL, redo_log=_REDO_LOG)
    found = Databases({node.label: node for node in made.nodes}, made.create)
    with _started(found, made.start, directory):
        yield found


def _make(path: Path, disk: bool) -> None:
    try:
        if disk:
            make_disk(path, DISK_OF_DATABASE)
        else:
            path.mkdir()
    except (OSError, NoDisks) as error:
        raise CannotRun(str(error)) from None


@contextmanager
def _started(databases: Databases, start: Callable[[], None], directory: Path) -> Iterator[None]:
    try:
        try:
            start()
        except (OSError, RuntimeError) as error:
            raise CannotRun(str(error)) from None
        yield
    finally:
        for name, server in databases.servers.items():
            server.stop(kill=True)
            with suppress(OSError):  # its disk disappears with this process; there may be no logs yet
                log = directory / "logs" / f"{name.replace(' ', '-')}.log"
                log.write_bytes((server.directory / "log").read_bytes())

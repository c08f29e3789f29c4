"""Set up a benchmark of the whole system: a broker, a MariaDB, workers and load; remove all of it at the end.

All processes listen on free loopback ports and have their files in a temporary directory. However a benchmark ends
(normally, by Ctrl-C, SIGTERM or an error), it leaves nothing behind.
"""

import asyncio
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy.engine import URL

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from testbed.broker import BrokerUnavailable
from testbed.database import DatabaseServer, temporary_database
from testbed.load.generator import READY
from testbed.load.spec import LoadSpec, write_spec
from testbed.process import last_lines
from testbed.site import Site, make_site, python_command, worker_command
from testbed.stack import CannotRun, Stack

_WARNINGS: Final = 5

REDO_LOG: Final = "512M"
"""As large as on a server with many writes: with a small redo log, MariaDB writes its pages repeatedly."""


class Ledgers(Protocol):
    """A database server, or a cluster, in which a benchmark creates its ledger."""

    @property
    def pid(self) -> int | None:
        """The process whose CPU time counts as the database's."""

    def create(self, database: str) -> URL:
        """Create an empty database, and return its URL."""


class Stage(Stack):
    """A broker, workers, load, and their ledger; see :func:`stage`."""

    def __init__(self, site: Site, database: Ledgers) -> None:
        super().__init__(site)
        self.database = database

    @property
    def key_file(self) -> Path:
        """The key that signs tokens."""
        return self.site.directory / "jwt.key"

    async def start_worker(self, name: str, *, number: int = 1, ledger: URL | None = None) -> str:
        """Start ``ingest``, ``scorer`` or ``selector``; return its name when it is connected to the broker.

        Args:
            ledger: the ledger's URL for this worker, if it differs from that of the others.
        """
        command = worker_command(dataclasses.replace(self.site, database=ledger or self.site.database), name)
        if number > 1:
            own = f"{name}-{number}"
            command = dataclasses.replace(command, name=own, log=self.site.logs / f"{own}.log")
        await self.start_process(command, "connected to")
        return command.name

    async def start_load(self, spec: LoadSpec, name: str = "load") -> str:
        """Start a load generator; return its name when all its monitors are connected."""
        path = self.site.directory / f"{name}.json"
        write_spec(path, spec)
        await self.start_process(python_command(self.site, name, "testbed.load", str(path)), READY)
        return name

    async def wait_load(self, name: str, within: float) -> None:
        """Wait until a load generator has ended by itself.

        Raises:
            CannotRun: it failed, or did not end in time.
        """
        try:
            async with asyncio.timeout(within):
                status = await self.supervisor.wait(name)
        except TimeoutError:
            what = f"{name} did not end within {within:g} s:\n{self._last_lines(name)}{self._warnings()}"
            raise CannotRun(what) from None
        if status != 0:
            raise CannotRun(f"{name} exited with {status}:\n{self._last_lines(name)}{self._warnings()}")

    async def stop(self, *names: str) -> None:
        """End these processes in order."""
        await self.supervisor.stop(names)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of each running process since its start."""
        pids = {name: self.supervisor.pid(name) for name in self.supervisor.running}
        pids["mariadb"] = self.database.pid
        times = {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}
        return {name: seconds for name, seconds in times.items() if seconds is not None}

    def _warnings(self) -> str:
        """Return the last warnings and errors in the processes' logs."""
        found = []
        for log in sorted(self.site.logs.iterdir()):
            bad = [
                line for line in log.read_text(errors="replace").splitlines() if " WARNING " in line or "rror" in line
            ]
            found += [f"\n{log.stem}: {line}" for line in bad[-_WARNINGS:]]
        return "".join(found)

    def _last_lines(self, name: str) -> str:
        return last_lines(self.site.logs / f"{name}.log")


@asynccontextmanager
async def stage(database: Ledgers) -> AsyncIterator[Stage]:
    """Run a broker, with an empty ledger in ``database``.

    Raises:
        CannotRun: the broker cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="ntpbench-") as directory:
        try:
            site = make_site(Path(directory), migrated(database, "bench"))
        except BrokerUnavailable as error:
            raise CannotRun(str(error)) from None
        async with Stage(site, database) as made:
            await made.start_broker()
            yield made


def migrated(database: Ledgers, name: str) -> URL:
    """Create an empty ledger of this name."""
    url = database.create(name)
    engine = open_database(url)
    upgrade(engine)
    engine.dispose()
    return url


def run(main: Callable[[DatabaseServer], Coroutine[Any, Any, int]], *, buffer_pool: str = "1G") -> int:
    """Run a benchmark on a separate MariaDB; return the exit status, 2 if a requirement is missing."""
    end_by_unwinding()
    try:
        with temporary_database(buffer_pool=buffer_pool, redo_log=REDO_LOG) as database:
            return asyncio.run(main(database))
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted\n")
        return 130
    except (CannotRun, FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2


def end_by_unwinding() -> None:
    """Make SIGTERM end this process as Ctrl-C does, even if a script has started it with Ctrl-C disabled."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))


def shares(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the cores that each process kept busy between two values of :meth:`Stage.cpu_seconds`."""
    return {name: round((used - before.get(name, 0.0)) / seconds, 2) for name, used in after.items()}


def cpu_seconds(pid: int) -> float | None:
    """Return user and system time of a process with all its threads (proc(5)); ``None`` if it has ended.

    A load generator ends by itself, and the supervisor learns it a moment after the kernel.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

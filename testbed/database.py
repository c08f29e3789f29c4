"""Run a temporary MariaDB or MySQL for tests, demo and benchmarks, on a free loopback port."""

import abc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL

from testbed.ports import free_port
from testbed.process import ending_with_us

START_TIMEOUT: Final = 60.0
"""Seconds for the server to start, and to stop."""


class DatabaseFailed(RuntimeError):
    """The server did not start; the message is the end of its log."""


def find_program(*names: str) -> str:
    """Find a server program; Debian keeps them in directories that are not in a user's PATH.

    Raises:
        FileNotFoundError: none of them is installed.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise FileNotFoundError(f"none of {', '.join(names)} is installed; run scripts/bootstrap")


def mysql_directory() -> Path:
    """Return the directory in the virtual environment where scripts/bootstrap puts MySQL, if it is available."""
    return Path(sys.prefix) / "mysql"


def administration(url: URL) -> sa.Engine:
    """Return an engine without a pool, and without TLS, which costs more than the statements of most tests."""
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"ssl_disabled": True})


class DatabaseServer(abc.ABC):
    """Run a database server on loopback only, as durable as in production (every commit is flushed).

    Args:
        directory: for data, socket and log; must be short, since the path of a Unix socket has at most 107 characters.
        buffer_pool: ``innodb_buffer_pool_size``.
        redo_log: capacity of the redo log; None: the server's default.
    """

    name: ClassVar[str]
    """The name of its kind on the command line."""

    start_within_seconds: ClassVar[float] = START_TIMEOUT

    def __init__(self, directory: Path, *, buffer_pool: str = "256M", redo_log: str | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self._buffer_pool = buffer_pool
        self._redo_log = redo_log
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def install(self) -> None:
        """Create the system tables.

        Raises:
            FileNotFoundError: the server is not installed.
            DatabaseFailed: it did not create them.
        """

    @abc.abstractmethod
    def _program(self) -> list[str]:
        """Return the program and its arguments apart from :meth:`_settings`."""

    def _settings(self) -> list[str]:
        settings = [f"--datadir={self.data}", f"--innodb-buffer-pool-size={self._buffer_pool}"]
        settings += [f"--socket={self.directory / 's'}", f"--port={self.port}", "--bind-address=127.0.0.1"]
        return [*settings, "--innodb-flush-log-at-trx-commit=1", *_as_root()]

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            DatabaseFailed: it does not.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the server, which ends with the thread that calls this."""
        command = [*ending_with_us(), *self._program(), *self._settings()]
        with (self.directory / "log").open("ab") as log:
            # In a separate process group, so that Ctrl-C reaches us first and the database ends last.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, env=self._environment()
            )

    def _environment(self) -> dict[str, str]:
        """Set a separate directory for temporary tables, since a starting server removes those that it finds."""
        temporary = self.directory / "tmp"
        temporary.mkdir(exist_ok=True)
        return {**os.environ, "TMPDIR": str(temporary)}

    def wait(self) -> None:
        """Wait until the started server answers.

        Raises:
            DatabaseFailed: it does not.
        """
        deadline = time.monotonic() + self.start_within_seconds
        while not self.answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise DatabaseFailed((self.directory / "log").read_text()[-2000:])
            time.sleep(0.05)

    def answers(self) -> bool:
        """Return whether the server executes statements."""
        try:
            self.administration().connect().close()
        except sa.exc.OperationalError:
            return False
        return True

    def url(self, database: str) -> URL:
        """Return the URL of one of its databases."""
        return URL.create(f"{self.name}+pymysql", "root", None, "127.0.0.1", self.port, database)

    def administration(self) -> sa.Engine:
        """Return an engine for statements of an administrator, without a pool."""
        return administration(self.url("mysql"))

    def create(self, database: str) -> URL:
        """Create an empty database, and return its URL."""
        engine = self.administration()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS `{database}`")
            connection.exec_driver_sql(f"CREATE DATABASE `{database}` CHARACTER SET UTF8MB4")
        return self.url(database)

    @property
    def pid(self) -> int | None:
        """The process id while the server runs, else None."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server and wait for its end."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(timeout=START_TIMEOUT)
            self._process = None


class MariaDb(DatabaseServer):
    """A MariaDB server."""

    name = "mariadb"

    def install(self) -> None:
        program = find_program("mariadb-install-db")
        self.data.mkdir()
        # The script fails if the path of one of its directories contains a space.
        with tempfile.TemporaryDirectory(prefix="ntpdb", dir="/tmp") as short:
            link = Path(short) / "data"
            link.symlink_to(self.data)
            command = [program, "--no-defaults", "--auth-root-authentication-method=normal"]
            # --force: also on a host that can resolve neither its own name nor "localhost".
            command += ["--force", f"--datadir={link}", "--skip-test-db", *_as_root()]
            made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": short})
        if made.returncode != 0:
            raise DatabaseFailed((made.stdout + made.stderr)[-2000:])

    def _program(self) -> list[str]:
        redo_log = [f"--innodb-log-file-size={self._redo_log}"] if self._redo_log else []
        return [find_program("mariadbd"), "--no-defaults", *redo_log]


class MySql(DatabaseServer):
    """A MySQL server with the strictest settings, such as no table without a primary key."""

    name = "mysql"

    def install(self) -> None:
        if os.access(mysql_directory(), os.W_OK) and not _template().exists():
            self._make_template()
        if os.access(_template(), os.R_OK | os.X_OK):
            shutil.copytree(_template(), self.data)
        else:  # it belongs to another user
            self._initialize(self.data)

    def _make_template(self) -> None:
        """Create the system tables once for all later servers: that takes seconds, copying them a tenth of one."""
        with tempfile.TemporaryDirectory(prefix="new-", dir=mysql_directory()) as directory:
            new = Path(directory) / "data"
            self._initialize(new)
            (new / "auto.cnf").unlink()
            with suppress(OSError):  # another process was faster
                new.rename(_template())

    def _initialize(self, data: Path) -> None:
        # Each server creates its keys when it starts.
        command = [*_mysqld(), "--initialize-insecure", f"--datadir={data}", "--auto-generate-certs=OFF"]
        command += ["--sha256-password-auto-generate-rsa-keys=OFF", "--innodb-redo-log-capacity=32M"]
        command += ["--caching-sha2-password-auto-generate-rsa-keys=OFF", *_as_root()]
        made = subprocess.run(command, capture_output=True, text=True, env=self._environment())
        if made.returncode != 0:
            raise DatabaseFailed(made.stderr[-2000:])

    def _program(self) -> list[str]:
        redo_log = [f"--innodb-redo-log-capacity={self._redo_log}"] if self._redo_log else []
        return [*_mysqld(), *redo_log, f"--pid-file={self.directory / 'pid'}", *_SMALL, "--sql-require-primary-key=ON"]


_SMALL: Final = ("--performance-schema=OFF", "--max-connections=200", "--table-open-cache=400")
"""Settings that halve MySQL's default memory."""

SERVERS: Final[Mapping[str, type[DatabaseServer]]] = {server.name: server for server in (MariaDb, MySql)}
"""The classes by name."""


def _mysqld() -> list[str]:
    """Return the program and the options for its directories; it is restricted to TCP, SQL and these directories."""
    directory = mysql_directory()
    program = directory / "mysqld"
    if not program.exists():
        raise FileNotFoundError(
            f"MySQL is not in {directory}; run scripts/bootstrap, which installs it or reports why not"
        )
    command = [str(program), "--no-defaults", f"--basedir={directory}", f"--lc-messages-dir={directory / 'share'}"]
    command += [f"--character-sets-dir={directory / 'share' / 'charsets'}", "--mysqlx=OFF", "--secure-file-priv=NULL"]
    return command


def _template() -> Path:
    return mysql_directory() / "data"


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


@contextmanager
def running(server: DatabaseServer) -> Iterator[DatabaseServer]:
    """Start a new server, and stop it at the end.

    Raises:
        FileNotFoundError: it is not installed.
        DatabaseFailed: it does not start.
    """
    server.install()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def temporary_database(
    kind: type[DatabaseServer] = MariaDb, *, buffer_pool: str = "256M", redo_log: str | None = None
) -> Iterator[DatabaseServer]:
    """Run a server, and remove it with all its data at the end; raises the errors of :func:`running`."""
    # In the system's temporary directory, because its path is short enough for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="ntpdb") as directory,
        running(kind(Path(directory), buffer_pool=buffer_pool, redo_log=redo_log)) as server,
    ):
        yield server

"""A MariaDB of our own for tests and benchmarks: in a directory that goes with it, on loopback, on a free port."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL

from ops.local_ports import free_port

START_TIMEOUT: Final = 60.0
"""Seconds for the server to start, and to stop."""


def find_program(*names: str) -> str:
    """The path of a server program; Debian keeps them where a user's PATH does not look.

    Raises:
        FileNotFoundError: none of them is installed.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise FileNotFoundError(f"none of {', '.join(names)} is installed; run scripts/bootstrap")


class MariaDb:
    """A MariaDB of our own. Durable as in production (every commit is flushed), on loopback only.

    Args:
        directory: for data, socket and log. The path of a Unix socket may have 107 characters at most, so a short one.
        buffer_pool: ``innodb_buffer_pool_size``.
        options: more options of the server.
    """

    def __init__(self, directory: Path, *, buffer_pool: str = "256M", options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.port = free_port()
        self._options = [f"--innodb-buffer-pool-size={buffer_pool}", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._user = ["--user=root"] if os.geteuid() == 0 else []

    def install(self) -> None:
        """Makes the system tables."""
        command = [find_program("mariadb-install-db"), "--no-defaults", "--auth-root-authentication-method=normal"]
        # By force also on a host whose own name, and even "localhost", cannot be resolved.
        command += ["--force", f"--datadir={self.directory / 'data'}", "--skip-test-db", *self._user]
        subprocess.run(command, check=True, capture_output=True, env=self._environment())

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = [find_program("mariadbd"), "--no-defaults", f"--datadir={self.directory / 'data'}"]
        command += [f"--socket={self.directory / 's'}", f"--port={self.port}", "--bind-address=127.0.0.1"]
        command += ["--innodb-flush-log-at-trx-commit=1", *self._options, *self._user]
        with (self.directory / "log").open("ab") as log:
            # In a group of its own, so that Ctrl-C reaches us first and the database goes last.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, env=self._environment()
            )
        self._wait()

    def _environment(self) -> dict[str, str]:
        """With a place of its own for temporary tables: a server that starts removes those that it finds in there."""
        temporary = self.directory / "tmp"
        temporary.mkdir(exist_ok=True)
        return {**os.environ, "TMPDIR": str(temporary)}

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        engine = sa.create_engine(self.url("mysql"), poolclass=sa.NullPool)
        while True:
            try:
                engine.connect().close()
                return
            except sa.exc.OperationalError:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def url(self, database: str) -> URL:
        """The URL of one of its databases."""
        return URL.create("mariadb+pymysql", "root", None, "127.0.0.1", self.port, database)

    def create(self, database: str) -> URL:
        """An empty database of that name, and its URL."""
        engine = sa.create_engine(self.url("mysql"), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS `{database}`")
            connection.exec_driver_sql(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
        return self.url(database)

    @property
    def pid(self) -> int | None:
        """Of the running server, else None."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, *, kill: bool = False) -> None:
        """Ends the server and waits for its end."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(timeout=START_TIMEOUT)
            self._process = None


@contextmanager
def temporary_mariadb(*, buffer_pool: str = "256M", options: tuple[str, ...] = ()) -> Iterator[MariaDb]:
    """A running MariaDB that is gone afterwards with all its data.

    Raises:
        FileNotFoundError: MariaDB is not installed.
        RuntimeError: it does not start; the message is the end of its log.
    """
    # In the system's temporary directory, whose path is short enough for a socket.
    with tempfile.TemporaryDirectory(prefix="ntpdb") as directory:
        server = MariaDb(Path(directory), buffer_pool=buffer_pool, options=options)
        server.install()
        try:
            server.start()
            yield server
        finally:
            server.stop()

"""Run a broker of any make on loopback, with and without TLS: its files, its certificates, its start and its end."""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from auth.ca.authority import DEFAULT_LIFETIME
from auth.ca.files import FileAuthority
from auth.ca.list_file import write_list
from auth.ca.request import new_key
from runtime.mqtt.types import BrokerAddress
from testbed.ports import ADDRESS, free_port, loopback_addresses
from testbed.tls import Certificate, LocalCa

_STOP_TIMEOUT: Final = 10.0


class BrokerUnavailable(Exception):
    """The broker cannot be started; the message says why and what to do."""


class BrokerProcess(ABC):
    """A broker with its files in one directory; a context manager that starts and stops it.

    It listens for plain TCP on ``port`` and for TLS on ``tls_port``, on all loopback addresses.

    Args:
        directory: created if missing; existing persistent state is used.
        key: the key that verifies tokens, see :meth:`auth.tokens.SigningKey.verification_text`.
        authority: an existing CA. Clients on ``tls_port`` then need a certificate of it, and the broker has one, too;
            plain TCP, as for workers, needs none. Default: a CA for the broker's certificate alone.
    """

    ready: ClassVar[str]
    """The text in its log when it accepts connections."""
    start_within_seconds: ClassVar[float] = 15.0
    lacks: ClassVar[Sequence[str]] = ()
    """What it does not do, of that which the pool's broker does."""

    def __init__(self, directory: Path, port: int, key: str, *, authority: FileAuthority | None = None) -> None:
        self.directory = directory.resolve()
        self.ca = LocalCa()
        self.authority = authority
        self.certificate = self.ca.issue(*loopback_addresses()) if authority is None else _issue(authority)
        """What it shows to TLS clients, until :meth:`show`."""
        self._key = key
        self.listen_at(port)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running process; None before the start and after the end."""
        return self._process

    def listen_at(self, port: int) -> None:
        """Listen on ``port``, and for TLS on another free port, from the next start on."""
        self.port = self.tls_port = port
        while self.tls_port == self.port:
            self.tls_port = free_port()

    def address(self, host: str = ADDRESS, *, tls: bool = False) -> BrokerAddress:
        """Return the address for clients, at one of the loopback addresses."""
        return BrokerAddress(host, self.tls_port, self.directory / "ca.pem") if tls else BrokerAddress(host, self.port)

    @property
    def log_file(self) -> Path:
        """The broker's log file."""
        return self.directory / "broker.log"

    def log_text(self) -> str:
        """Return the broker's whole log, across restarts."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def set_keys(self, key: str, previous: str | None = None) -> None:
        """Change the keys for the next start or reload; during a rotation, tokens of either key are
        accepted."""
        self._key = key
        self._write("jwt.key", key)
        self._write("jwt-previous.key", previous or "")

    def show(self, certificate: Certificate) -> None:
        """Change the certificate for TLS clients until the next :meth:`prepare`; a running broker must be reloaded."""
        self._write("cert.pem", certificate.certificate)
        self._write("key.pem", certificate.key)

    @property
    def crl_file(self) -> Path:
        """The list of revoked certificates; a running broker must be reloaded after a change of it."""
        return self.directory / "crl.pem"

    def trust_roots(self) -> None:
        """Write the roots of the authority, after one was added; a running broker must be reloaded."""
        self._write("ca.pem", self.ca.certificate if self.authority is None else self.authority.bundle())

    def _write_certificates(self) -> None:
        self.trust_roots()
        self.show(self.certificate)
        if (authority := self.authority) is not None and not self.crl_file.exists():
            write_list(self.crl_file, lambda: authority.revocation_list([]))

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write the broker's files, and return the command that runs it in the foreground."""

    def start(self) -> None:
        """Start the broker; return when it accepts connections.

        Raises:
            BrokerUnavailable: it exits or does not answer; the message has the end of its log.
        """
        command = self.prepare()
        with self.log_file.open("ab") as log:
            begin = log.tell()
            # In a separate session, so that Ctrl-C reaches us first and the broker ends last.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        try:
            self._wait(begin)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the broker in order; it saves its state and the retained messages."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker; whatever it has not saved is lost."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, begin: int) -> None:
        """Wait for the line in the log, from ``begin`` on: an answer on the port may come from another process."""
        deadline = time.monotonic() + self.start_within_seconds
        while self.ready.encode() not in self.log_file.read_bytes()[begin:]:
            if self._process is None or self._process.poll() is not None:
                raise BrokerUnavailable(f"the broker has exited:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"the broker did not become ready:\n{self._last_lines()}")
            time.sleep(0.01)

    def _last_lines(self) -> str:
        return "\n".join(self.log_text().splitlines()[-8:])

    def _write(self, name: str, text: str) -> None:
        """Write a file atomically, readable by its owner only."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, new = self.directory / name, self.directory / f"{name}.new"
        new.touch(mode=0o600)
        new.chmod(0o600)
        new.write_text(text, encoding="utf-8")
        new.replace(path)


def _issue(authority: FileAuthority) -> Certificate:
    made = new_key()
    return Certificate(authority.sign_server(made.request, loopback_addresses(), DEFAULT_LIFETIME).chain, made.key)

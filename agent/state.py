"""Read the agent's persistent state: its name, the address of the broker, and its token.

There is one directory per environment, readable by its owner only. Whoever provisions an agent writes ``state.json``
and ``token``; the agent reads them, detects changes, and writes all other files.
"""

import errno
import fcntl
import ipaddress
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta

from agent.files import write_durably
from agent.ntp.targets import TargetRules
from runtime.mqtt.tls_files import file_stamp
from runtime.mqtt.types import BrokerAddress
from schema.names import Environment, InvalidName, check_monitor_name

_MAX_TOKEN: Final = 8192
"""Maximum bytes of a token; the broker has the same limit."""

_MAX_STATE: Final = 65536


class StateError(Exception):
    """A file of the state directory is missing or invalid; the message names it and the requirement."""


class StateUnavailable(StateError):
    """The disk or the system lacks a resource now. This may be temporary, so the agent should be restarted."""


_PASSES: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EDQUOT,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""File system errors that are repaired without a change of the agent's configuration."""


def state_error(text: str, error: OSError) -> StateError:
    """Return the exception for an operating system error, depending on whether it is temporary."""
    kind = StateUnavailable if error.errno in _PASSES else StateError
    return kind(f"{text}: {error.strerror or error}")


class Broker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The address of the broker."""

    host: Annotated[str, Meta(min_length=1, max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 8883
    ca_file: str | None = None
    """Trusted certificates, as an absolute path or relative to the state directory. ``None``: plain TCP."""


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``state.json``."""

    name: str
    """The monitor's full name, ``<short>.<env>.<domain>``."""
    broker: Broker
    allow_private_targets: bool = False
    """Allow probing loopback and private addresses; ``devel`` only."""


class StateDirectory:
    """The files of one agent in one environment."""

    def __init__(self, base: Path, env: Environment) -> None:
        self.env = env
        self.path = base / env
        self.state_file = self.path / "state.json"
        self.token_file = self.path / "token"
        self.certificate_file = self.path / "cert.pem"
        self.key_file = self.path / "key.pem"
        self.status_file = self.path / "status.json"
        self.lock_file = self.path / "lock"
        self.spool = self.path / "spool"

    def prepare(self) -> None:
        """Create the directory if it is missing, and close it to other users.

        Raises:
            StateError: this is not possible.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise state_error(f"{self.path}: must be a writable directory", error) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            if os.statvfs(self.path).f_flag & os.ST_RDONLY:
                raise StateUnavailable(f"{self.path}: the file system is read-only")
            raise StateError(f"{self.path}: must be a writable directory")

    def read_state(self) -> State:
        """Read ``state.json``.

        Raises:
            StateError: it is missing or invalid.
        """
        content = _read(self.state_file, _MAX_STATE, "this monitor has not been set up")
        try:
            state = msgspec.json.decode(content, type=State)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"{self.state_file}: {error}") from error
        self._check(state)
        return state

    def read_token(self) -> str:
        """Return the token to log in with. Its text is secret.

        Raises:
            StateError: it is missing, readable by others, or not a token.
        """
        _refuse_public(self.token_file)
        content = _read(self.token_file, _MAX_TOKEN, "this monitor has no token").strip()
        if not content or not content.isascii() or any(byte <= 32 for byte in content):
            raise StateError(f"{self.token_file}: must contain one token and nothing else")
        return content.decode("ascii")

    def broker_address(self, state: State) -> BrokerAddress:
        """Return the address of the broker, with our certificate if there is one."""
        broker = state.broker
        if broker.ca_file is None:
            return BrokerAddress(broker.host, broker.port)
        ca_file = self.path / broker.ca_file
        if file_stamp(self.certificate_file) is None:
            return BrokerAddress(broker.host, broker.port, ca_file)
        return BrokerAddress(broker.host, broker.port, ca_file, self.certificate_file, self.key_file)

    def check_key(self) -> None:
        """Check that the key exists and that others cannot read it.

        Raises:
            OSError: this is not the case; the message names the file.
        """
        try:
            mode = self.key_file.stat().st_mode
        except OSError as error:
            raise OSError(f"{self.key_file}: {error.strerror}, although {self.certificate_file.name} exists") from error
        if mode & 0o077:
            raise PermissionError(_open_to_others(self.key_file, mode))

    def rules(self, state: State) -> TargetRules:
        """Return the rules for allowed targets."""
        return TargetRules(self.env, state.allow_private_targets)

    def _check(self, state: State) -> None:
        try:
            check_monitor_name(state.name, self.env)
        except InvalidName as error:
            raise StateError(f"{self.state_file}: {error}") from error
        if state.allow_private_targets and self.env != "devel":
            raise StateError(
                f"{self.state_file}: allow_private_targets is allowed in devel only, and this is {self.env}"
            )
        ca_file = state.broker.ca_file
        if ca_file is None and not _is_loopback(state.broker.host):
            raise StateError(
                f"{self.state_file}: broker.ca_file: required for {state.broker.host}: "
                "plain TCP is allowed on loopback only"
            )
        if ca_file is not None and not os.access(self.path / ca_file, os.R_OK):
            raise StateError(f"{self.state_file}: broker.ca_file {ca_file}: must be a readable file")


class Lock:
    """A lock that is held while an agent runs, so that no other agent uses the same directory. A context manager.

    Raises:
        StateError: another process holds it.
    """

    def __init__(self, directory: StateDirectory) -> None:
        self._path = directory.lock_file
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise state_error(f"{self._path}: cannot be opened", error) from error
        if not self._take():
            owner = os.read(self._descriptor, 20).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StateError(
                f"{self._path.parent}: another agent (process {owner or 'unknown'}) is running on this directory"
            )
        with suppress(OSError):  # the lock is held anyway; only its owner remains unknown
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def _take(self, attempts: int = 5) -> bool:
        for attempt in range(attempts):
            if attempt:
                time.sleep(0.05)  # a process that only checks the lock holds it for an instant
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                continue
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)  # the file stays: removing it would let two processes lock two files


def running_process(directory: StateDirectory) -> int | None:
    """Return the id of the process that holds the lock, 0 if it is unknown, ``None`` if no process does."""
    try:
        descriptor = os.open(directory.lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        text = os.read(descriptor, 20).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)


def state_base(given: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the parent of the state directories: argument, ``MONITOR_STATE_DIR``, ``STATE_DIRECTORY``, or the user's
    config.

    Raises:
        StateError: none is given, and the user has no home.
    """
    if given is not None:
        return given
    if own := environ.get("MONITOR_STATE_DIR"):
        return Path(own)
    if by_systemd := environ.get("STATE_DIRECTORY"):
        return Path(by_systemd.split(":")[0])
    if config := environ.get("XDG_CONFIG_HOME"):
        return Path(config) / "ntppool-agent"
    try:
        return Path.home() / ".config" / "ntppool-agent"
    except RuntimeError:  # neither HOME nor an entry in the user database
        raise StateError("this user has no home: --state-dir or MONITOR_STATE_DIR must name a directory") from None


def provision(base: Path, env: Environment, state: State, token: str) -> StateDirectory:
    """Set up an agent: write ``state.json`` and ``token`` below ``base``, each atomically.

    Raises:
        StateError: ``state`` is invalid for an agent of ``env``, or the directory cannot be used.
    """
    directory = StateDirectory(base, env)
    directory.prepare()
    directory._check(state)
    write_token(directory, token)
    content = msgspec.json.format(msgspec.json.encode(state), indent=2)
    write_durably(directory.state_file, content, b"\n")
    return directory


def write_token(directory: StateDirectory, token: str) -> None:
    """Write a new token, which a running agent picks up by itself."""
    write_durably(directory.token_file, token.encode("ascii"), b"\n")


def _read(path: Path, limit: int, when_missing: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise StateError(f"{path}: is missing: {when_missing}") from None
    except OSError as error:
        raise state_error(f"{path}: cannot be read", error) from error
    if len(content) > limit:
        raise StateError(f"{path}: is larger than {limit} bytes")
    return content


def _refuse_public(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # reading it reports the reason
    if mode & 0o077:
        raise StateError(_open_to_others(path, mode))


def _open_to_others(path: Path, mode: int) -> str:
    return f"{path}: is accessible to others (mode {mode & 0o777:04o}); must be 0600"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

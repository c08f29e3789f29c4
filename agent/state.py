"""Read the agent's persistent state: its name, the address of the broker, and its token.

There is one directory per environment, readable by its owner only. ``setup`` or whoever provisions an agent writes
``state.json`` and ``token``; the agent reads them, detects changes, and writes all other files.
"""

import errno
import fcntl
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self, TypeVar

import msgspec
from msgspec import Meta

from agent.files import write_durably
from agent.ntp.targets import TargetRules
from agent.system import SYSTEM
from runtime.loopback import is_loopback
from runtime.mqtt.tls_files import file_stamp
from runtime.mqtt.types import BrokerAddress
from schema.names import Environment, InvalidName, IpVersion, check_monitor_name

T = TypeVar("T")

_MAX_TOKEN: Final = 8192
"""Maximum bytes of a token; the broker has the same limit."""

MAX_STATE: Final = 65536

SERVICE_STATE: Final = SYSTEM.state
"""The state directory of the service, which systemd or rc.d creates."""


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


class NotSetUp(StateError):
    """This monitor has not been set up, or not completely; the message says what is missing."""


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


class Api(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The management API and our key for it."""

    url: Annotated[str, Meta(min_length=8, max_length=300)]
    key: Annotated[str, Meta(min_length=8, max_length=4096, pattern=r"^[!-~]+\Z")]
    """The API key, which is secret."""
    ca_file: str | None = None
    """Certificates to trust in addition to the system's, as an absolute path."""
    registration: str | None = None
    """The registration that the key is from. Secret, too."""

    def __repr__(self) -> str:
        return f"Api(url={self.url!r}, ...)"


class Registered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the API said last about one protocol."""

    ip: Annotated[str, Meta(max_length=45)]
    status: Annotated[str, Meta(max_length=20)]


class Fetched(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which key fetched what, and which configuration is stored: whatever does not match is fetched again."""

    token: str = ""
    """Digest of the API key with which the token was fetched. A new key may mean that the former token is revoked."""
    certificate: str = ""
    """The same for the certificate."""
    etag: Annotated[str, Meta(max_length=300)] = ""
    """The API's tag of the configuration; empty if it has none."""
    config: str = ""
    """Digest of the configuration as it was stored, with the broker's certificates."""


class StateFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of ``state.json``: the fields of :class:`State`, which may be missing until the API has been asked,
    and what is known about the API. One that is written by hand has no API."""

    name: str | None = None
    broker: Broker | None = None
    allow_private_targets: bool = False
    api: Api | None = None
    protocols: dict[IpVersion, Registered] = {}
    """What the API said last."""
    fetched: Fetched = Fetched()


class StateDirectory:
    """The files of one agent in one environment."""

    def __init__(self, base: Path, env: Environment) -> None:
        self.env = env
        self.path = base / env
        self.state_file = self.path / "state.json"
        self.go_state_file = self.path / "state.go.json"
        self.registration_file = self.path / "registration.json"
        self.setup_lock_file = self.path / "setup.lock"
        self.token_file = self.path / "token"
        self.certificate_file = self.path / "cert.pem"
        self.key_file = self.path / "key.pem"
        self.broker_ca_file = self.path / "broker-ca.pem"
        self.new_key_file = self.path / "key.new.pem"
        self.new_request_file = self.path / "request.new.pem"
        self.new_certificate_file = self.path / "cert.new.pem"
        self.renewal_file = self.path / "renewal.json"
        self.renewal_lock_file = self.path / "renewal.lock"
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
        """Read what the daemon needs from ``state.json``.

        Raises:
            NotSetUp: it is missing or incomplete.
            StateError: it is invalid.
        """
        content = _read(self.state_file, MAX_STATE, "this monitor has not been set up")
        try:
            file = self._decode(content, StateFile)
        except StateError:
            self._decode(content, State)  # its messages do not mention that fields may be missing
            raise
        if file.name is not None and file.broker is not None:
            state = State(name=file.name, broker=file.broker, allow_private_targets=file.allow_private_targets)
        elif file.api is not None:
            missing = " and no ".join(field for field in ("name", "broker") if getattr(file, field) is None)
            raise NotSetUp(f"{self.state_file}: has no {missing} yet: the agent asks the API for it")
        else:
            state = self._decode(content, State)  # names the missing field
        self._check(state)
        return state

    def read_file(self) -> StateFile:
        """Read all of ``state.json``; a missing one is empty.

        Raises:
            StateError: it is invalid.
        """
        try:
            return self._decode(_read(self.state_file, MAX_STATE, "this monitor has not been set up"), StateFile)
        except NotSetUp:
            return StateFile()

    def write_file(self, file: StateFile) -> None:
        """Replace ``state.json`` durably, readable by its owner only.

        Raises:
            StateError: it cannot be written.
        """
        try:
            write_durably(self.state_file, msgspec.json.format(msgspec.json.encode(file), indent=2), b"\n")
        except OSError as error:
            raise state_error(f"{self.state_file}: cannot be written", error) from error

    def _decode(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"{self.state_file}: {error}") from error

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
        if ca_file is None and not is_loopback(state.broker.host):
            raise StateError(
                f"{self.state_file}: broker.ca_file: required for {state.broker.host}: "
                "plain TCP is allowed on loopback only"
            )
        if ca_file is not None and not os.access(self.path / ca_file, os.R_OK):
            raise StateError(f"{self.state_file}: broker.ca_file {ca_file}: must be a readable file")


_LOCK_PAUSE: Final = 0.05


class Lock:
    """A lock that is held while an agent runs, so that no other agent uses the same directory. A context manager.

    Args:
        path: the file to lock, if not the agent's own.
        holder: whoever holds the lock.
        seconds: how long to wait for it.

    Raises:
        StateError: another process holds it.
    """

    def __init__(
        self,
        directory: StateDirectory,
        path: Path | None = None,
        holder: str = "another agent",
        seconds: float = 0.2,
    ) -> None:
        self._path = path or directory.lock_file
        self._holder = holder
        self._attempts = 1 + round(seconds / _LOCK_PAUSE)
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise state_error(f"{self._path}: cannot be opened", error) from error
        if not self._take(self._attempts):
            owner = os.read(self._descriptor, 20).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StateError(
                f"{self._path.parent}: {self._holder} (process {owner or 'unknown'}) is running on this directory"
            )
        with suppress(OSError):  # the lock is held anyway; only its owner remains unknown
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def _take(self, attempts: int) -> bool:
        for attempt in range(attempts):
            if attempt:
                time.sleep(_LOCK_PAUSE)  # a process that only checks the lock holds it for an instant
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


def writing_state(directory: StateDirectory) -> Lock:
    """Return the lock to hold while files of the state directory are read, changed and written back.

    Whoever holds it waits for no network, so it is free soon.
    """
    return Lock(directory, directory.path / "state.lock", "a process that changes its files", seconds=30)


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
        raise NotSetUp(f"{path}: is missing: {when_missing}") from None
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

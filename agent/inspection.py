"""Inspect an agent's state for the ``status`` command, preferring a running daemon's state directory."""

import itertools
import os
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from agent.certificate import CertificateError, valid_until
from agent.renewal_file import Outcome, read_outcome
from agent.state import NotSetUp, StateDirectory, StateError, StateFile, running_process
from agent.status_file import AgentReport, read_report
from runtime.mqtt.tls_files import file_stamp
from runtime.mqtt.token_life import Life, life_of
from schema.names import ENVIRONMENTS, Environment

STALE: Final = 90.0
"""Seconds after which a running daemon must have reported: three times the maximum interval."""


ENOUGH: Final = timedelta(hours=1)
"""Remaining life of token and certificate with which an API that is away is no trouble."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The findings about one state directory."""

    path: str
    env: Environment
    closed_by: str | None = None
    """The user who may read the directory, if we may not."""
    name: str | None = None
    """The name of the monitor, if it is set up."""
    set_up: bool = False
    """There is a ``state.json``, valid or not."""
    others: tuple[Environment, ...] = ()
    """The other environments that are set up in the same place."""
    process: int | None = None
    """The daemon's process id; 0 when it is unknown, ``None`` when no daemon runs."""
    report: AgentReport | None = None
    troubles: tuple[str, ...] = ()
    """Files that are missing or invalid."""
    certificate: str = "none"
    api: str | None = None
    """The URL of the API with which this monitor is registered."""
    api_ca_file: str | None = None
    """The certificates that are trusted for it, besides the system's."""
    settings_differ: str | None = None
    """In words: the settings name another API."""
    missing: tuple[str, ...] = ()
    """The files that the daemon fetches from the API."""
    ends: datetime | None = None
    """When token or certificate end, whichever comes first; ``None`` if that is unknown or there is no token."""
    registered: tuple[str, ...] = ()
    """What the API said last about each protocol."""
    renewal: Outcome | None = None
    """How the API was asked last."""
    token: str | None = None
    """The life of the token."""
    settings_changed: bool = False
    """The defaults file has changed since the daemon read it."""

    def healthy(self, now: datetime) -> bool:
        """Return whether the daemon runs, reports, and is connected."""
        report = self.report
        if self.process is None or report is None or self.stale(now) or self.troubles or report.troubles:
            return False
        return report.connected and not self.missing and not self.needs_api(now)

    @property
    def api_away(self) -> bool:
        """The API gave no answer when it was asked last."""
        return self.renewal is not None and self.renewal.kind == "unreachable"

    def needs_api(self, now: datetime) -> bool:
        """Return whether the API is away, and the agent cannot work for another hour without it."""
        return self.api_away and (self.ends is None or self.ends - now < ENOUGH)

    def stale(self, now: datetime) -> bool:
        """Return whether a running daemon has not reported for too long."""
        if self.process is None or self.report is None:
            return False
        return (now - self.report.written).total_seconds() > STALE


def inspect(bases: Sequence[Path], env: Environment) -> Inspection:
    """Return the first place where a daemon runs, else the first that is set up, else the first."""
    found = [_look(base, env) for base in bases]
    running = (one for one in found if one.process is not None)
    set_up = (one for one in found if one.set_up)
    closed = (one for one in found if one.closed_by is not None)
    elsewhere = (one for one in found if one.others)
    left = (one for one in found if one.report is not None)
    candidates = itertools.chain(running, set_up, closed, elsewhere, left, found)
    return next(candidates)


def _look(base: Path, env: Environment) -> Inspection:
    directory = StateDirectory(base, env)
    try:
        others = tuple(other for other in ENVIRONMENTS if other != env and _is_there(base / other / "state.json"))
        set_up = _is_there(directory.state_file)
    except PermissionError:
        return Inspection(path=str(directory.path), env=env, closed_by=_owner(base))
    name, life, troubles = None, None, []
    report: AgentReport | None = None
    file = StateFile()
    now = datetime.now(UTC)
    try:
        if set_up:
            file = directory.read_file()
            name = directory.read_state().name
            life = life_of(directory.read_token())
    except StateError as error:
        if not (isinstance(error, NotSetUp) and file.api is not None):  # otherwise the daemon fetches it
            troubles.append(str(error))
    try:
        report = read_report(directory)
    except StateError as error:
        troubles.append(f"{error}; a running agent rewrites it every 30 s")
    if set_up and (trouble := _disk_trouble(directory.path)):
        troubles.append(trouble)
    return Inspection(
        path=str(directory.path),
        env=env,
        name=name,
        set_up=set_up,
        others=others,
        process=running_process(directory),
        report=report,
        troubles=tuple(troubles),
        certificate=_certificate(directory, now),
        missing=_missing(directory, file),
        ends=_first_end(directory, life),
        api=None if file.api is None else file.api.url,
        api_ca_file=None if file.api is None else file.api.ca_file,
        registered=tuple(f"IP{ipv} {one.ip} {one.status}" for ipv, one in file.protocols.items()),
        renewal=None if file.api is None else read_outcome(directory),
        token=_token(life, now),
        settings_changed=report is not None and _settings_changed(report),
    )


def _settings_changed(report: AgentReport) -> bool:
    return report.settings_file is not None and file_stamp(Path(report.settings_file)) != report.settings_stamp


def _missing(directory: StateDirectory, file: StateFile) -> tuple[str, ...]:
    """Return the files that were fetched from the API and are not there any more."""
    wanted = (
        (file.fetched.token, directory.token_file),
        (file.fetched.certificate, directory.certificate_file),
        (file.fetched.certificate, directory.key_file),
    )
    return tuple(path.name for fetched, path in wanted if fetched and not os.path.lexists(path))


def _first_end(directory: StateDirectory, life: Life | None) -> datetime | None:
    token = _end_of(life)
    if token is None or not os.path.lexists(directory.certificate_file):
        return token
    try:
        return min(token, valid_until(directory.certificate_file))
    except CertificateError:
        return None


def _end_of(life: Life | None) -> datetime | None:
    try:
        return None if life is None else datetime.fromtimestamp(life.expires, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _token(life: Life | None, now: datetime) -> str | None:
    """Describe the life of a token; ``None`` if it does not tell it."""
    until = _end_of(life)
    return None if until is None else _until(until, now)


def _disk_trouble(path: Path) -> str | None:
    """Return why the directory is not writable, as far as the file system reports it."""
    try:
        disk = os.statvfs(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if disk.f_flag & os.ST_RDONLY:
        return f"{path}: the file system is read-only, so results cannot be kept"
    if disk.f_bavail == 0 or (disk.f_files and disk.f_favail == 0):
        return f"{path}: the disk is full, so results cannot be kept"
    return None


def _is_there(path: Path) -> bool:
    """Return whether the file exists. Raise :class:`PermissionError` if we may not know."""
    try:
        path.stat()
    except PermissionError:
        raise
    except OSError:
        return False
    return True


def _owner(path: Path) -> str:
    try:
        owner = path.stat().st_uid
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
    except OSError:
        return "root"


def _certificate(directory: StateDirectory, now: datetime) -> str:
    if not os.path.lexists(directory.certificate_file):
        return "none"
    try:
        until = valid_until(directory.certificate_file)
    except CertificateError as error:
        return f"unusable: {error}"
    return _until(until, now)


def _until(until: datetime, now: datetime) -> str:
    return f"{'valid until' if until > now else 'EXPIRED on'} {until:%Y-%m-%d %H:%M} UTC"

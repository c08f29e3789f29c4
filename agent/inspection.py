"""Inspect an agent's state for the ``status`` command, preferring a running daemon's state directory."""

import os
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.certificate import CertificateError, valid_until
from agent.renewal_file import Outcome, read_outcome
from agent.state import StateDirectory, StateError, StateFile, running_process
from agent.status_file import AgentReport, read_report
from runtime.mqtt.tls_files import file_stamp
from runtime.mqtt.token_life import life_of
from schema.names import ENVIRONMENTS, Environment

STALE: Final = 90.0
"""Seconds after which a running daemon must have reported: three times the maximum interval."""


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
        return report.connected

    def stale(self, now: datetime) -> bool:
        """Return whether a running daemon has not reported for too long."""
        if self.process is None or self.report is None:
            return False
        return (now - self.report.written).total_seconds() > STALE


def inspect(bases: Sequence[Path], env: Environment) -> Inspection:
    """Return the first place where a daemon runs, else the first that is set up, else the first."""
    found = [_look(base, env) for base in bases]
    running = (one for one in found if one.process is not None)
    known = (one for one in found if one.set_up or one.report is not None)
    closed = (one for one in found if one.closed_by is not None)
    elsewhere = (one for one in found if one.others)
    return next(running, None) or next(known, None) or next(closed, None) or next(elsewhere, None) or found[0]


def _look(base: Path, env: Environment) -> Inspection:
    directory = StateDirectory(base, env)
    try:
        others = tuple(other for other in ENVIRONMENTS if other != env and _is_there(base / other / "state.json"))
        set_up = _is_there(directory.state_file)
    except PermissionError:
        return Inspection(path=str(directory.path), env=env, closed_by=_owner(base))
    name, token, troubles = None, None, []
    report: AgentReport | None = None
    file = StateFile()
    now = datetime.now(UTC)
    try:
        if set_up:
            file = directory.read_file()
            name = directory.read_state().name
            token = _token(directory.read_token(), now)
    except StateError as error:
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
        api=None if file.api is None else file.api.url,
        registered=tuple(f"IP{ipv} {one.ip} {one.status}" for ipv, one in file.protocols.items()),
        renewal=None if file.api is None else read_outcome(directory),
        token=token,
        settings_changed=report is not None and _settings_changed(report),
    )


def _settings_changed(report: AgentReport) -> bool:
    return report.settings_file is not None and file_stamp(Path(report.settings_file)) != report.settings_stamp


def _token(token: str, now: datetime) -> str | None:
    """Describe the life of a token; ``None`` if it does not tell it."""
    life = life_of(token)
    if life is None:
        return None
    try:
        until = datetime.fromtimestamp(life.expires, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return _until(until, now)


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

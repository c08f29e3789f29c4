"""What the ``status`` command finds out about an agent: the running service's state first, whoever asks."""

import os
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.certificate import CertificateError, valid_until
from agent.state import StateDirectory, StateError, running_process
from agent.status_file import AgentReport, read_report
from schema.names import ENVIRONMENTS, Environment

STALE: Final = 90.0
"""Seconds after which a daemon that runs should have reported: three times as long as it waits at most."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be seen of one state directory."""

    path: str
    env: Environment
    closed_by: str | None = None
    """Who may look into it, when we may not."""
    name: str | None = None
    """Of the monitor, when it is set up."""
    set_up: bool = False
    """Whether there is a ``state.json``, good or not."""
    others: tuple[Environment, ...] = ()
    """The other environments that are set up beside it."""
    process: int | None = None
    """Of the daemon; 0 when it is not known which, None when there is none."""
    report: AgentReport | None = None
    troubles: tuple[str, ...] = ()
    """Files that are missing or wrong."""
    certificate: str = "none"

    def healthy(self, now: datetime) -> bool:
        """Whether it runs, says so, and is connected."""
        report = self.report
        if self.process is None or report is None or self.stale(now) or self.troubles or report.troubles:
            return False
        return report.connected

    def stale(self, now: datetime) -> bool:
        """Whether a daemon that runs has not reported for too long."""
        if self.process is None or self.report is None:
            return False
        return (now - self.report.written).total_seconds() > STALE


def inspect(bases: Sequence[Path], env: Environment) -> Inspection:
    """The first of several places where a daemon runs, else the first that is set up, else the first."""
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
    name, troubles = None, []
    report: AgentReport | None = None
    try:
        if set_up:
            name = directory.read_state().name
            directory.read_token()
    except StateError as error:
        troubles.append(str(error))
    try:
        report = read_report(directory)
    except StateError as error:
        troubles.append(f"{error}; a running agent writes it anew every 30 s")
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
        certificate=_certificate(directory, datetime.now(UTC)),
    )


def _disk_trouble(path: Path) -> str | None:
    """Why nothing can be written there, as far as the file system says so."""
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
    """Raises :class:`PermissionError` when that is not for us to know."""
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
    return f"{'valid until' if until > now else 'EXPIRED on'} {until:%Y-%m-%d %H:%M} UTC"

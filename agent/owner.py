"""Let root work on a state directory as the user to whom it belongs.

Root gives up its rights for good. So every file has the right owner from the start, and a symbolic link that the
service's user has made leads root nowhere.
"""

import os
import pwd
from pathlib import Path
from typing import Final

from agent.state import StateError, state_error

SERVICE_USER: Final = "ntppool-agent"
"""The user of the units."""


def become_owner(base: Path) -> None:
    """Make this process, if it is root, the owner of ``base``, which is created for the service's user if it is
    missing.

    Raises:
        StateError: this is not possible.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = _owner(base)
        if owner is not None:
            _become(*owner)
    except OSError as error:
        raise state_error(f"{base}: cannot be used as its owner", error) from error


def _owner(base: Path) -> tuple[int, int] | None:
    """Return user and group, or ``None`` for root. Create the directory if it is missing."""
    try:
        found = base.stat()
    except FileNotFoundError:
        return _create(base)
    if not base.is_dir():
        raise StateError(f"{base}: must be a directory")
    return None if found.st_uid == 0 else (found.st_uid, found.st_gid)


def _create(base: Path) -> tuple[int, int] | None:
    base.mkdir(mode=0o700, parents=True)
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None  # a host without the unit: root's own agent
    os.chown(base, user.pw_uid, user.pw_gid)
    return user.pw_uid, user.pw_gid


def _become(user: int, group: int) -> None:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)

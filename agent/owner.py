"""Let root work on a state directory as the user to whom it belongs.

Root gives up its rights for good. So every file has the right owner from the start, and a symbolic link that the
service's user has made leads root nowhere.
"""

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.state import StateError, state_error

SERVICE_USER: Final = "ntppool-agent"
"""The user of the units."""

_TO_LOOK_AT: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def become_owner(base: Path) -> None:
    """Make this process, if it is root, the owner of ``base``, which is created for the service's user if it is
    missing. What an earlier run of root has left below it then belongs to its owner, too.

    Raises:
        StateError: this is not possible.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = _owner(base)
        if owner is not None:
            give_roots_files(base, *owner)
            _become(*owner)
    except OSError as error:
        raise state_error(f"{base}: cannot be used as its owner", error) from error


def user_name() -> str:
    """Return the name of the user who we are."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def give_roots_files(base: Path, user: int, group: int) -> None:
    """Give root's directories and files below ``base`` to its owner, who could not use them otherwise.

    The owner may have put anything there: links are not followed, and a file that has another name elsewhere stays
    root's.

    Raises:
        OSError: a directory cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for _, _, files, directory in os.fwalk(base, onerror=fail, follow_symlinks=False):
        if os.fstat(directory).st_uid == 0:
            os.fchown(directory, user, group)
        for name in files:
            with suppress(OSError):  # a link, or a file that has gone meanwhile
                opened = os.open(name, _TO_LOOK_AT, dir_fd=directory)
                _give(opened, user, group)


def _give(descriptor: int, user: int, group: int) -> None:
    try:
        found = os.fstat(descriptor)
        if found.st_uid == 0 and found.st_nlink == 1 and stat.S_ISREG(found.st_mode):
            os.fchown(descriptor, user, group)
    finally:
        os.close(descriptor)


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

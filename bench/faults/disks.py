"""Provide small disks that can be filled: file systems in memory, in a private mount namespace.

Other processes do not see them, and they disappear with the last of our processes, however it ends. Root may create
them and, if the kernel allows user namespaces, any user.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

_NEW_MOUNTS: Final = 0x00020000
_NEW_USERS: Final = 0x10000000
_RECURSIVE: Final = 0x4000
_PRIVATE: Final = 1 << 18
_DETACH: Final = 2
"""From linux/sched.h, linux/mount.h and sys/mount.h; Python 3.11 does not define them."""

_BALLAST: Final = "ballast"


class NoDisks(Exception):
    """This process may not create file systems; the message gives the reason."""


def own_mounts() -> None:
    """Give this process and its children a private mount namespace. Call it before there are threads.

    Raises:
        NoDisks: it is not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    flags = _NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USERS
    if libc.unshare(flags) != 0:
        raise NoDisks(f"unshare(2): {os.strerror(ctypes.get_errno())}")
    try:
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise NoDisks(str(error)) from None
    _mount("none", Path("/"), None, _RECURSIVE | _PRIVATE, None)


def make_disk(path: Path, megabytes: int) -> None:
    """Mount an empty disk of this size at ``path``, which is created.

    Raises:
        NoDisks: it is not permitted.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _mount("tmpfs", path, "tmpfs", 0, f"size={megabytes}m,mode=0700")


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = [None if text is None else text.encode() for text in (source, str(target), kind, options)]
    if libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        raise NoDisks(f"mount(2) of {target}: {os.strerror(ctypes.get_errno())}")


def remove_disk(path: Path) -> None:
    """Unmount the disk at ``path``, if there is one."""
    ctypes.CDLL(None, use_errno=True).umount2(str(path).encode(), _DETACH)


def fill(path: Path) -> None:
    """Allocate all free space."""
    ballast = os.open(path / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        step = 1 << 20
        while step:
            try:
                os.write(ballast, bytes(step))
            except OSError:
                step //= 2
    finally:
        os.close(ballast)


def free(path: Path) -> None:
    """Release the space again."""
    (path / _BALLAST).unlink(missing_ok=True)

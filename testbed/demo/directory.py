"""Manage a demo's directory: one demo at a time, and no files but the demo's."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from testbed.stack import CannotRun

_MARK: Final = "ntppool-demo"
"""The file that marks a demo's directory; it is also the lock, and contains the owner's process id."""

_LONGEST: Final = 80
"""Maximum length of the path: sockets below it may have 107 characters."""


@contextmanager
def demo_directory(given: Path | None) -> Iterator[Path]:
    """Return a directory for this demo alone, empty but for the lock: ``given``, or a temporary one.

    Files of an earlier demo in ``given`` are removed. A temporary directory stays until the caller removes it, so that
    its logs can be read.

    Raises:
        CannotRun: it cannot be created, has other files, or another demo runs in it.
    """
    directory = Path(tempfile.mkdtemp(prefix="ntppool-demo-")) if given is None else given.absolute()
    if len(str(directory)) > _LONGEST:
        raise CannotRun(f"--dir {directory}: its path has {len(str(directory))} characters, at most {_LONGEST} work")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_ours(directory)
        descriptor = os.open(directory / _MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotRun(f"--dir {directory}: {error.strerror}") from None
    try:
        _lock(descriptor, directory)
        _clear(directory)
        yield directory
    finally:
        os.close(descriptor)


def remove(directory: Path) -> None:
    """Remove the directory of a demo that has ended."""
    shutil.rmtree(directory, ignore_errors=True)


def _require_ours(directory: Path) -> None:
    if any(directory.iterdir()) and not (directory / _MARK).exists():
        raise CannotRun(f"--dir {directory}: is neither empty nor a demo's directory; name a new or empty one")


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        raise CannotRun(f"--dir {directory}: another demo (process {owner}) is running in it") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _clear(directory: Path) -> None:
    for left in directory.iterdir():
        if left.name == _MARK:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()

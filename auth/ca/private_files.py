"""Read and write the files of a CA: complete or absent after a crash, and keys that no other user can read."""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 65536


class ExposedFile(OSError):
    """A private file or directory is accessible to other users; the message says how to repair it."""


def check_private_directory(path: Path) -> None:
    """Check that only its owner can use the directory, who is this process's user or root.

    Raises:
        ExposedFile: others can use it.
        OSError: it is missing or inaccessible.
    """
    _check_private(path, path.stat())


def read_private(path: Path) -> bytes:
    """Return the content of a private file.

    Raises:
        ExposedFile: others can read or change it, or it is a link.
        OSError: it cannot be read, or is larger than 64 KiB.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(f"{path}: cannot be opened as a private file ({error.strerror})") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path}: is not a regular file")
        _check_private(path, found)
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"{path}: has more than {MAX_FILE_BYTES} bytes")
    return content


def _check_private(path: Path, found: os.stat_result) -> None:
    # Root reads the files of the service's user.
    if os.geteuid() != 0 and found.st_uid not in (os.geteuid(), 0):
        raise ExposedFile(f"{path}: belongs to another user (uid {found.st_uid}), who can change it; change its owner")
    if found.st_mode & 0o077:
        raise ExposedFile(
            f"{path}: must be accessible to its owner only, but its mode is {stat.S_IMODE(found.st_mode):04o}; "
            f"run 'chmod go= {path}'"
        )


def write_new(path: Path, content: bytes) -> None:
    """Write a private file that must not exist yet, and return once it is on disk.

    Raises:
        FileExistsError: it exists; it is unchanged.
        OSError: it could not be written.
    """
    temporary = _write_temporary(path, content, 0o600, _owner_of(path.parent))
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically, and return once it is on disk. A file that exists keeps its owner, if we are root.

    Raises:
        OSError: it could not be written; the previous file is unchanged.
    """
    temporary = _write_temporary(path, content, mode, _owner_of(path))
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def make_private_directory(path: Path) -> None:
    """Create a directory for its owner only, unless it exists. Root creates it for the owner of the one above.

    Raises:
        OSError: it cannot be created.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    path.chmod(0o700)
    if (owner := _owner_of(path.parent)) is not None:
        os.chown(path, *owner)


def _write_temporary(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _owner_of(path: Path) -> tuple[int, int] | None:
    """Return user and group of a file that exists if we are root; services often run as another user."""
    if os.geteuid() != 0:
        return None
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_uid, found.st_gid


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

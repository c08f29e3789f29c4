"""Write files that are complete or absent, even if the host crashes in between."""

import os
from pathlib import Path

TEMPORARY = ".tmp"
"""Suffix of files that are being written; after a crash, files with this suffix are garbage."""


def write_durably(path: Path, *parts: bytes) -> None:
    """Replace a file, readable by its owner only, and return once it is on disk.

    Raises:
        OSError: it could not be written; the previous file is unchanged.
    """
    _replace(path, parts, durable=True)
    _sync_directory(path.parent)


def write_atomically(path: Path, *parts: bytes) -> None:
    """Write like :func:`write_durably`, but without fsync: a power failure may restore the previous file.

    Raises:
        OSError: it could not be written.
    """
    _replace(path, parts, durable=False)


def _replace(path: Path, parts: tuple[bytes, ...], durable: bool) -> None:
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # one that a crash has left has its own mode
            file.writelines(parts)
            file.flush()
            if durable:
                os.fsync(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

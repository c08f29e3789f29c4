"""Files that are whole or not there, whatever happens to the host in between."""

import os
from pathlib import Path

TEMPORARY = ".tmp"
"""Suffix of files that are being written; what has it after a crash is rubbish."""


def write_durably(path: Path, *parts: bytes) -> None:
    """Writes a file, readable by its owner only, so that it is on disk when this returns; replaces what was there.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    _replace(path, parts, durable=True)
    _sync_directory(path.parent)


def write_atomically(path: Path, *parts: bytes) -> None:
    """Like :func:`write_durably`, but a power failure may bring back the former file: for what is written anew anyway.

    Raises:
        OSError: it could not be written.
    """
    _replace(path, parts, durable=False)


def _replace(path: Path, parts: tuple[bytes, ...], durable: bool) -> None:
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
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

"""The TLS context of a session, from files that others replace while we run.

A certificate and its key are two files, so every renewal has a moment in which they do not belong together, and a file
that is being written is broken for a while. So a context that has worked stays until there is a newer one that does.
"""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from runtime.log import OngoingWarning
from runtime.mqtt.types import BrokerAddress, TlsUnusable

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, ...] | None, ...]
"""Tells whether files were replaced, written, or opened to others."""


class TlsFiles:
    """The files of one address, and the context made from the last of them that could be used.

    Args:
        check: called before the files are read; raises :class:`OSError` when they must not be used.
    """

    def __init__(self, address: BrokerAddress, check: Callable[[], None] | None = None) -> None:
        self.address = address
        self._check = check
        self._context: ssl.SSLContext | None = None
        self._loaded: Stamp | None = None
        self._warning = OngoingWarning(log)

    @property
    def stamp(self) -> Stamp:
        """Of the files as they are now."""
        files = (self.address.ca_file, self.address.cert_file, self.address.key_file)
        return tuple(file_stamp(file) for file in files if file is not None)

    @property
    def loaded(self) -> bool:
        """Whether there is a context, or none is needed."""
        return self._loaded is not None

    def load(self) -> bool:
        """Whether the files have changed and were read anew.

        Raises:
            OSError: they cannot be used. What was there before still is.
        """
        stamp = self.stamp
        if stamp == self._loaded:
            return False
        if self._check is not None:
            self._check()
        # Should a file be replaced meanwhile, its stamp is another one the next time.
        self._context, self._loaded = self.address.tls(), stamp
        self._warning.over()
        return True

    def context(self) -> ssl.SSLContext | None:
        """The newest context that can be used, None for plain TCP.

        Raises:
            TlsUnusable: there was never one.
        """
        try:
            self.load()
        except OSError as error:
            if self._loaded is None:
                raise TlsUnusable(f"certificates or key cannot be used: {error}") from error
            self._warning.warning("%s; going on with what was there before", error)
        return self._context


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """None when the file cannot be seen."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_mode

"""Load the TLS context of a session from files that are replaced at run time.

A certificate and its key are two files, so during every renewal they do not match for a moment, and a file that is
being written is invalid for a while. So the last valid context is used until a newer one can be loaded.
"""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from runtime.log import OngoingWarning
from runtime.mqtt.types import BrokerAddress, TlsUnusable

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, ...] | None, ...]
"""Value that changes if files are replaced or written, or their permissions change."""


class TlsFiles:
    """Files of one address, and the context from their last valid versions.

    Args:
        check: called before the files are read; raises :class:`OSError` if they must not be used.
    """

    def __init__(self, address: BrokerAddress, check: Callable[[], None] | None = None) -> None:
        self.address = address
        self._check = check
        self._context: ssl.SSLContext | None = None
        self._loaded: Stamp | None = None
        self._warning = OngoingWarning(log)

    @property
    def stamp(self) -> Stamp:
        """Return the stamp of the current files."""
        files = (self.address.ca_file, self.address.cert_file, self.address.key_file)
        return tuple(file_stamp(file) for file in files if file is not None)

    @property
    def loaded(self) -> bool:
        """Return whether there is a context, or none is needed."""
        return self._loaded is not None

    @property
    def in_use(self) -> Stamp | None:
        """Return the stamp of the files whose content is in use."""
        return self._loaded

    def load(self) -> bool:
        """Load the files if they have changed; return whether they were loaded.

        Raises:
            OSError: they are invalid. The previous context is kept.
        """
        stamp = self.stamp
        if stamp == self._loaded:
            return False
        if self._check is not None:
            self._check()
        # If a file is replaced meanwhile, its stamp differs the next time.
        self._context, self._loaded = self.address.tls(), stamp
        self._warning.over()
        return True

    def context(self) -> ssl.SSLContext | None:
        """Return the newest valid context; None for plain TCP.

        Raises:
            TlsUnusable: there has never been a valid one.
        """
        try:
            self.load()
        except OSError as error:
            if self._loaded is None:
                raise TlsUnusable(f"certificates or key cannot be used: {error}") from error
            self._warning.warning("%s; continuing with the previous certificates and key", error)
        return self._context


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return the stamp of a file; None if it cannot be accessed."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_mode

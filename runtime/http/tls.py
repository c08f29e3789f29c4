"""Serve TLS with certificate and key from files that are replaced at run time.

A new pair counts for new connections; open ones go on. While the files do not match, as in the middle of a renewal, the
last valid pair is used.
"""

import logging
import ssl
from pathlib import Path
from typing import Any, Final

from runtime.log import OngoingWarning
from runtime.mqtt.tls_files import Stamp, file_stamp

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the files."""


class ServerTls:
    """Certificate and key of the API.

    Raises:
        OSError: they are invalid.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._files = (cert_file, key_file)
        self._warning = OngoingWarning(log)
        self._stamp = self._stamp_now()
        self._current = server_context(cert_file, key_file)
        # The listener keeps its first context. For each connection, that one is replaced by the current one.
        self.context = server_context(cert_file, key_file)
        self.context.sni_callback = self._choose

    def reload(self) -> bool:
        """Load the files if they have changed; return whether a new pair counts from now on."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return False
        try:
            self._current = server_context(*self._files)
        except OSError as error:
            self._warning.warning("%s; continuing with the previous certificate", error)
            return False
        self._stamp = stamp
        self._warning.over()
        log.info("new certificate from %s", self._files[0])
        return True

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, first: Any) -> None:
        """Use the current pair; called in each handshake, with or without a server name."""
        connection.context = self._current

    def _stamp_now(self) -> Stamp:
        return tuple(map(file_stamp, self._files))


def server_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer.

    Raises:
        OSError: a file is unreadable, is not a certificate or key, or the two do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password, OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        raise OSError(
            f"{cert_file}, {key_file}: no certificate or key, or not of the same pair ({error.reason})"
        ) from None
    except ValueError as error:
        raise OSError(f"{key_file}: {error}") from None
    return context

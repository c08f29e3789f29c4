"""Read the agent's identity and credentials from files that may be replaced while it runs.

Files that cannot be used never end the agent: it keeps the previous ones, warns, and tries again.
"""

import logging
from typing import Self

from agent.state import State, StateDirectory, StateError
from runtime.log import OngoingWarning
from runtime.mqtt.tls_files import Stamp, TlsFiles, file_stamp
from runtime.mqtt.token_life import has_expired

log = logging.getLogger(__name__)


class Login:
    """The content of ``state.json``, the certificates that belong to it, and the token."""

    def __init__(self, directory: StateDirectory, state: State) -> None:
        self.state = state
        address = directory.broker_address(state)
        self.tls = TlsFiles(address, check=None if address.key_file is None else directory.check_key)
        self.token = TokenFile(directory)
        self.trouble: str | None = None
        """The reason why newer files cannot be used."""
        self._directory = directory

    def troubles(self) -> list[str]:
        """Return the problems with the files."""
        return [trouble for trouble in (self.trouble, self.token.trouble) if trouble is not None]

    @property
    def stamp(self) -> Stamp:
        """Return a value that changes when a file is replaced. The token is not included: it is read on every use."""
        directory = self._directory
        files = (directory.state_file, directory.certificate_file, directory.key_file)
        return (*map(file_stamp, files), *self.tls.stamp)

    @property
    def complete(self) -> bool:
        """Return whether all files have been read."""
        return self.tls.loaded

    def renewed(self) -> Self:
        """Return the login from the current files: this object, unless more than the certificates has changed.

        Raises:
            StateError: the files are invalid. This object is unchanged.
        """
        found = type(self)(self._directory, self._directory.read_state())
        if found.tls.address == self.tls.address:
            found.tls = self.tls
        elif found.tls.address.cert_file is None and self.tls.address.cert_file is not None:
            self._refuse_half_removed()
        try:
            found.tls.load()
        except OSError as error:
            raise StateError(f"certificates or key cannot be used: {error}") from error
        if found.state == self.state and found.tls is self.tls:
            return self
        if found.state.name == self.state.name:
            found.token = self.token
        return found

    def _refuse_half_removed(self) -> None:
        """Refuse a key without its certificate: if neither exists, none is wanted; one of them is a renewal in
        progress."""
        key, certificate = self._directory.key_file, self._directory.certificate_file
        if file_stamp(key) is not None:
            raise StateError(f"{certificate}: is missing, although {key.name} exists")


class TokenFile:
    """Read the token. While its file is missing or invalid, return the previous token until that expires."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._former: str | None = None
        self.trouble: str | None = None
        """The reason why the previous token is used."""
        self._warning = OngoingWarning(log)

    def read(self) -> str:
        """Return the token to log in with.

        Raises:
            StateError: there is no usable token.
        """
        try:
            self._former = self._directory.read_token()
        except StateError as error:
            if self._former is None or has_expired(self._former):
                raise
            self.trouble = str(error)
            self._warning.warning("%s; continuing with the previous token", error)
            return self._former
        self.trouble = None
        self._warning.over()
        return self._former

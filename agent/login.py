"""Who an agent is and how it gets in, from files that others replace while it runs.

What cannot be used does not end anything: the agent goes on with what was there before, warns, and looks again.
"""

import logging
from typing import Self

from agent.state import State, StateDirectory, StateError
from runtime.log import OngoingWarning
from runtime.mqtt.tls_files import Stamp, TlsFiles, file_stamp
from runtime.mqtt.token_life import has_expired

log = logging.getLogger(__name__)


class Login:
    """``state.json``, the certificates that belong to it, and the token."""

    def __init__(self, directory: StateDirectory, state: State) -> None:
        self.state = state
        address = directory.broker_address(state)
        self.tls = TlsFiles(address, check=None if address.key_file is None else directory.check_key)
        self.token = TokenFile(directory)
        self.trouble: str | None = None
        """Why newer files cannot be taken up."""
        self._directory = directory

    def troubles(self) -> list[str]:
        """What is wrong with the files."""
        return [trouble for trouble in (self.trouble, self.token.trouble) if trouble is not None]

    @property
    def stamp(self) -> Stamp:
        """Tells whether a file was replaced. The token is read whenever it is used."""
        directory = self._directory
        files = (directory.state_file, directory.certificate_file, directory.key_file)
        return (*map(file_stamp, files), *self.tls.stamp)

    @property
    def complete(self) -> bool:
        """Whether all of it has been read."""
        return self.tls.loaded

    def renewed(self) -> Self:
        """What the files say now: itself when that is nothing new.

        Raises:
            StateError: they are wrong. This one stays as it is.
        """
        found = type(self)(self._directory, self._directory.read_state())
        if found.tls.address == self.tls.address:
            found.tls = self.tls
        elif found.tls.address.cert_file is None and self.tls.address.cert_file is not None:
            self._refuse_half_removed()
        try:
            changed = found.tls.load()
        except OSError as error:
            raise StateError(f"certificates or key cannot be used: {error}") from error
        if found.state == self.state and found.tls is self.tls and not changed:
            return self
        if found.state.name == self.state.name:
            found.token = self.token
        return found

    def _refuse_half_removed(self) -> None:
        """Without both we are meant to have no certificate; without one of them a renewal is under way."""
        key, certificate = self._directory.key_file, self._directory.certificate_file
        if file_stamp(key) is not None:
            raise StateError(f"{certificate}: is missing, though {key.name} is there")


class TokenFile:
    """The token, and while its file is missing or broken, the one before for as long as that is good."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._former: str | None = None
        self.trouble: str | None = None
        """Why the token before is used."""
        self._warning = OngoingWarning(log)

    def read(self) -> str:
        """The token to log in with.

        Raises:
            StateError: there is none.
        """
        try:
            self._former = self._directory.read_token()
        except StateError as error:
            if self._former is None or has_expired(self._former):
                raise
            self.trouble = str(error)
            self._warning.warning("%s; going on with the token that was there before", error)
            return self._former
        self.trouble = None
        self._warning.over()
        return self._former

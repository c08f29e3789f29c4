"""Recognise whether the configuration that the API has given last is still stored as it was.

If it is, the API need not send it again; its tag tells whether it has changed there.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from agent.state import Broker, Registered, StateDirectory, StateFile
from schema.names import IpVersion


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the API says about this monitor, in the form in which it is stored."""

    name: str
    broker: Broker
    protocols: dict[IpVersion, Registered]
    broker_ca: bytes | None
    """The certificates by which the broker is trusted, if the API names them."""
    etag: str = ""

    @property
    def digest(self) -> str:
        """Return a digest of all of it but the tag."""
        stored = msgspec.json.encode((self.name, self.broker, self.protocols), order="sorted")
        return hashlib.sha256(stored + b"\0" + (self.broker_ca or b"")).hexdigest()


def stored_configuration(directory: StateDirectory, file: StateFile) -> Configuration | None:
    """Return the configuration that the API need not send again.

    Returns:
        ``None`` if there is no tag for it, or if anything of it has been changed since it was stored.
    """
    if not file.fetched.etag or file.name is None or file.broker is None:
        return None
    ca = stored_broker_ca(directory, file.broker)
    found = Configuration(file.name, file.broker, file.protocols, ca, file.fetched.etag)
    return found if found.digest == file.fetched.config else None


def stored_broker_ca(directory: StateDirectory, broker: Broker) -> bytes | None:
    """Return the stored certificates by which the broker is trusted; ``None`` if there are none."""
    if broker.ca_file is None:
        return None
    try:
        return (directory.path / broker.ca_file).read_bytes()
    except OSError:
        return None

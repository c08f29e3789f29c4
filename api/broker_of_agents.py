"""Tell agents which broker to use, and which certificates to trust there."""

import logging
import threading
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from api.messages import BrokerAnswer
from runtime.log import OngoingWarning
from runtime.mqtt.tls_files import Stamp, file_stamp
from runtime.mqtt.types import BrokerAddress
from runtime.settings import ConfigurationError

log = logging.getLogger(__name__)

_MAX_BUNDLE: Final = 65536
"""Characters of a bundle that agents accept."""


class BrokerOfAgents:
    """The broker's address and CA for agents; a CA file that is replaced counts at once. Thread-safe.

    Raises:
        ConfigurationError: the CA file is unusable.
    """

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._stamp: Stamp = ()
        self._answer = BrokerAnswer(host=address.host, port=address.port)
        self._warning = OngoingWarning(log)
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"API_BROKER_CA_FILE={address.ca_file}: {error}") from None

    def answer(self) -> BrokerAnswer:
        """Return the broker as it is told to agents; the last valid CA as long as the file is not."""
        with self._lock:
            try:
                self._load()
            except (OSError, ValueError) as error:
                self._warning.warning("%s: %s; agents are told the previous CA", self._address.ca_file, error)
            return self._answer

    def _load(self) -> None:
        path = self._address.ca_file
        if path is None:
            return
        stamp = (file_stamp(path),)
        if stamp == self._stamp:
            return
        bundle = certificates_only(path.read_bytes())
        self._answer = BrokerAnswer(host=self._address.host, port=self._address.port, ca=bundle)
        self._stamp = stamp
        self._warning.over()


def certificates_only(pem: bytes) -> str:
    """Return the certificates in ``pem``, without comments, and without a private key that lies beside them.

    Raises:
        ValueError: there is none, one is malformed, or there are too many.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise ValueError("must be certificates in PEM") from None
    text = "".join(one.public_bytes(Encoding.PEM).decode() for one in found)
    if len(text) > _MAX_BUNDLE:
        raise ValueError(f"must have at most {_MAX_BUNDLE} characters")
    return text

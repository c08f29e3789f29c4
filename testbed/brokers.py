"""Make a broker of one of the kinds that the demo knows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from auth.ca.files import FileAuthority
from testbed.broker import LocalBroker
from testbed.broker_process import BrokerProcess
from testbed.broker_rmqtt import make_cluster
from testbed.ports import free_port

MOSQUITTO: Final = "mosquitto"
BROKERS: Final[Mapping[str, int]] = {MOSQUITTO: 1, "rmqtt": 1, "rmqtt-cluster": 3}
"""The kinds of broker, and how many nodes each of them has."""


def make_broker(kind: str, directory: Path, key: str, authority: FileAuthority | None) -> Sequence[BrokerProcess]:
    """Return the nodes of a broker of this kind, see :class:`BrokerProcess`.

    Raises:
        BrokerUnavailable: the broker, or Mosquitto's plugin, is missing.
    """
    if kind == MOSQUITTO:
        return [LocalBroker(directory, free_port(), key, authority=authority)]
    return make_cluster(directory, key, BROKERS[kind], authority=authority)


def new_token_key() -> str:
    """Return a new private key that signs tokens (ES384), for brokers that must not have a secret."""
    private = ec.generate_private_key(ec.SECP384R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

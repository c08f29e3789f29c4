"""Run rmqtt, alone or as a cluster: a broker that is not Mosquitto, to find out what the project assumes of a broker.

``scripts/bootstrap --broker`` builds it from ``testbed/rmqtt``. It reads the same tokens, by their claim ``acl``, as
EMQX would. See docs/scale.md.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from auth.ca.files import FileAuthority
from testbed.broker_process import BrokerProcess, BrokerUnavailable
from testbed.paths import CHECKOUT
from testbed.ports import ADDRESS, free_port, loopback_addresses

_PROGRAM: Final = CHECKOUT / ".venv/bin/rmqtt-broker"

LACKS: Final = (
    "it does not carry out revocations: tokens of a deleted or revoked monitor stay valid until they expire",
    "it does not name the senders of control commands",
    "it compares neither client ids nor certificates with the token's name",
    "it checks neither the topics of last wills nor lists of revoked certificates",
    "it ends a session whose token has expired only at its next ping",
)
"""What the plugin does in Mosquitto, and nothing does here."""


def find_program() -> Path:
    """Find the broker's program.

    Raises:
        BrokerUnavailable: it was not built.
    """
    if not _PROGRAM.exists():
        raise BrokerUnavailable(f"{_PROGRAM.name} is not at {_PROGRAM}: run scripts/bootstrap --broker")
    return _PROGRAM


class RmqttNode(BrokerProcess):
    """Run one node; see :class:`BrokerProcess`. ``key`` must be a public key: rmqtt logs a secret."""

    ready = "MQTT Broker Listening on"
    # The nodes of a cluster look for each other first.
    start_within_seconds = 60.0
    lacks = LACKS

    def __init__(self, directory: Path, port: int, key: str, *, authority: FileAuthority | None = None) -> None:
        self.program = find_program()
        super().__init__(directory, port, key, authority=authority)
        self.number = 1
        self.node_port, self.raft_port = free_port(), free_port()
        """For the other nodes of a cluster: to pass messages on, and to agree on sessions and subscriptions."""
        self.nodes: Sequence[RmqttNode] = (self,)

    def prepare(self) -> list[str]:
        """Write the broker's files, and return the command that runs it in the foreground."""
        self._write("jwt.key", self._key)
        self._write_certificates()
        plugins = self.directory / "plugins"
        shutil.rmtree(plugins, ignore_errors=True)
        plugins.mkdir(mode=0o700)
        for name, text in self._plugins().items():
            self._write(f"plugins/{name}.toml", text)
        self._write("broker.json", json.dumps(self._settings(plugins)))
        return [str(self.program), str(self.directory / "broker.json")]

    def _settings(self, plugins: Path) -> dict[str, object]:
        addresses = [f"[{address}]" if ":" in address else address for address in loopback_addresses()]
        return {
            "node": self.number,
            "tcp": [f"{address}:{self.port}" for address in addresses],
            "tls": [f"{address}:{self.tls_port}" for address in addresses],
            "certificate": str(self.directory / "cert.pem"),
            "key": str(self.directory / "key.pem"),
            "clients": None if self.authority is None else str(self.directory / "ca.pem"),
            "plugins": str(plugins),
            "cluster": f"{ADDRESS}:{self.node_port}" if len(self.nodes) > 1 else None,
        }

    def _plugins(self) -> dict[str, str]:
        files = {
            "rmqtt-auth-jwt": _toml(
                disconnect_if_pub_rejected=False,
                disconnect_if_expiry=True,
                encrypt="public-key",
                hmac_base64=False,
                public_key=str(self.directory / "jwt.key"),
                validate_claims={"exp": True, "nbf": True, "sub": "${username}"},
            ),
            "rmqtt-retainer": _toml(storage={"type": "ram"}),
        }
        if len(self.nodes) > 1:
            files["rmqtt-cluster-raft"] = _toml(
                worker_threads=2,
                node_grpc_addrs=[f"{node.number}@{ADDRESS}:{node.node_port}" for node in self.nodes],
                raft_peer_addrs=[f"{node.number}@{ADDRESS}:{node.raft_port}" for node in self.nodes],
            )
        return files


def _toml(**values: object) -> str:
    """Return a file of TOML. JSON's texts, numbers and lists are TOML's, too."""
    lines = []
    for name, value in values.items():
        pairs = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        lines += [f"{key} = {json.dumps(one)}\n" for key, one in pairs.items()]
    return "".join(lines)


def make_cluster(directory: Path, key: str, count: int, *, authority: FileAuthority | None = None) -> list[RmqttNode]:
    """Make the nodes of a cluster, to be started one after the other.

    Raises:
        BrokerUnavailable: the program was not built.
    """
    places = [directory] + [directory.with_name(f"{directory.name}-{number}") for number in range(2, count + 1)]
    nodes = [RmqttNode(place, free_port(), key, authority=authority) for place in places]
    for number, node in enumerate(nodes, start=1):
        node.number, node.nodes = number, nodes
    return nodes

"""Test the configuration of rmqtt's nodes; tests/integration/broker/test_rmqtt.py runs them, if they are built."""

import json
import tomllib
from pathlib import Path

import pytest

from testbed import broker_rmqtt
from testbed.broker_process import BrokerUnavailable
from testbed.broker_rmqtt import make_cluster
from testbed.site import make_site

KEY = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the broker was built."""
    path = tmp_path / "rmqtt-broker"
    path.touch()
    monkeypatch.setattr(broker_rmqtt, "_PROGRAM", path)
    return path


def test_missing_program_names_the_command_that_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_rmqtt, "_PROGRAM", tmp_path / "rmqtt-broker")
    with pytest.raises(BrokerUnavailable, match=r"run scripts/bootstrap --broker$"):
        make_site(tmp_path, None, broker="rmqtt")


def test_single_node_has_no_cluster(tmp_path: Path, program: Path) -> None:
    [node] = make_cluster(tmp_path / "broker", KEY, 1)
    assert node.prepare() == [str(program), str(tmp_path / "broker/broker.json")]
    settings = json.loads((tmp_path / "broker/broker.json").read_text())
    assert (settings["node"], settings["cluster"], settings["clients"]) == (1, None, None)
    assert sorted(path.name for path in (tmp_path / "broker/plugins").iterdir()) == [
        "rmqtt-auth-jwt.toml",
        "rmqtt-retainer.toml",
    ]


def test_nodes_of_a_cluster_know_each_other_and_check_tokens(tmp_path: Path, program: Path) -> None:
    nodes = make_cluster(tmp_path / "broker", KEY, 3)
    for number, node in enumerate(nodes, start=1):
        node.prepare()
        read = {path.stem: tomllib.loads(path.read_text()) for path in (node.directory / "plugins").iterdir()}
        peers = read["rmqtt-cluster-raft"]["raft_peer_addrs"]
        assert [peer.partition("@")[0] for peer in peers] == ["1", "2", "3"]
        assert json.loads((node.directory / "broker.json").read_text())["node"] == number
        tokens = read["rmqtt-auth-jwt"]
        assert Path(tokens["public_key"]).read_text() == KEY
        assert tokens["validate_claims"] == {"exp": True, "nbf": True, "sub": "${username}"}
        assert tokens["disconnect_if_expiry"] is True
    ports = [port for node in nodes for port in (node.port, node.tls_port, node.node_port, node.raft_port)]
    assert len(set(ports)) == len(ports)


def test_site_of_a_cluster_signs_with_a_key_pair_and_spreads_the_workers(tmp_path: Path, program: Path) -> None:
    site = make_site(tmp_path, None, broker="rmqtt-cluster")
    assert site.key.algorithm == "ES384", "rmqtt writes a secret into its log"
    ports = {name: site.settings(name)["MQTT_PORT"] for name in ("ingest", "scorer", "selector")}
    assert list(ports.values()) == [str(node.port) for node in site.nodes]

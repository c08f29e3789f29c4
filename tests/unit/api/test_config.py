"""Test the configuration answer: the members that both kinds of agents read, and its tag."""

import json
from pathlib import Path

import pytest

from agent.api_messages import decode_config
from api.broker_of_agents import BrokerOfAgents, certificates_only
from api.hosts import Host, Protocol
from api.routes.config import config_of, tagged
from runtime.mqtt.types import BrokerAddress
from runtime.settings import ConfigurationError
from testbed.tls import LocalCa

HOST = Host("nlams1-a.prod.mon.example", {"v6": Protocol("2001:db8::1", "testing")})
PLAIN = BrokerOfAgents(BrokerAddress("127.0.0.1", 1883))


def test_the_answer_has_the_members_of_both_protocols() -> None:
    body = bytes(tagged(config_of(HOST, PLAIN), None).body)
    assert json.loads(body) == {
        "name": "nlams1-a",
        "tls_name": "nlams1-a.prod.mon.example",
        "ipv4": {"ip": "", "status": ""},
        "ipv6": {"ip": "2001:db8::1", "status": "testing"},
        "broker": {"host": "127.0.0.1", "port": 1883},
        "api_version": 1,
    }
    assert decode_config(body, "prod").protocols["v6"].status == "testing"


def test_the_tag_changes_with_the_content_only() -> None:
    made = config_of(HOST, PLAIN)
    tag = tagged(made, None).headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}'):
        again = tagged(made, known)
        assert (again.status_code, again.body, again.headers["etag"]) == (304, b"", tag)
    assert tagged(made, '"x"').status_code == 200
    paused = Host(HOST.name, {"v6": Protocol("2001:db8::1", "paused")})
    assert tagged(config_of(paused, PLAIN), tag).status_code == 200


def test_agents_are_told_the_current_ca_and_never_a_key(tmp_path: Path) -> None:
    first, second, path = LocalCa(), LocalCa(), tmp_path / "ca.pem"
    path.write_text("a comment\n" + first.certificate + first.issue("x").key)
    broker = BrokerOfAgents(BrokerAddress("mqtt.example", 8883, path))
    assert broker.answer().ca == first.certificate
    path.write_text("half of a file")
    assert broker.answer().ca == first.certificate
    path.write_text(second.certificate + first.certificate)
    assert broker.answer().ca == second.certificate + first.certificate


def test_an_unusable_ca_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="API_BROKER_CA_FILE"):
        BrokerOfAgents(BrokerAddress("mqtt.example", 8883, path))
    with pytest.raises(ValueError, match="characters"):
        certificates_only((LocalCa().certificate * 200).encode())

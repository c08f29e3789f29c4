"""Test the brokers' configuration files: listeners, and limits of memory and messages."""

import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import get_args

import pytest

from auth.tokens import Role, load_key
from schema.limits import MAX_PAYLOAD_BYTES
from schema.names import Environment
from schema.topics import Topics
from testbed.broker import LocalBroker
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Refused, signed, user_properties
from testbed.fixtures.strict_broker import Strict, StrictBroker
from testbed.paths import CHECKOUT
from testbed.ports import free_port
from testbed.waiting import block_until

CONFIG = CHECKOUT / "broker-config"
ENVIRONMENTS = get_args(Environment)
NAME = "config1-x.test.mon.example"
TOPICS = Topics("test")
LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""


# --- the files per environment ------------------------------------------------------------------------


def config(env: str) -> str:
    return (CONFIG / f"mosquitto.{env}.conf").read_text()


def listeners(text: str) -> dict[int, str]:
    """Map each port to its address, which is empty if the port is open to the world."""
    return {int(port): address or "" for port, address in re.findall(r"^listener (\d+)(?: (\S+))?$", text, re.M)}


def test_environments_differ_in_their_name_and_ports_only() -> None:
    texts = set()
    for env in ENVIRONMENTS:
        text = config(env)
        for number, port in enumerate(listeners(text)):
            text = text.replace(f"listener {port}", f"listener PORT{number}")
        texts.add(re.sub(rf"\b{env}\b", "ENV", text))
    assert len(texts) == 1


def test_ports_are_distinct_and_unencrypted_ones_are_on_loopback() -> None:
    ports = [port for env in ENVIRONMENTS for port in listeners(config(env))]
    assert len(set(ports)) == len(ports)
    assert 8883 in listeners(config("prod"))
    assert 1883 in listeners(config("prod"))
    for env in ENVIRONMENTS:
        for section in config(env).split("\nlistener ")[1:]:
            assert "certfile" in section or section.split()[1] == "127.0.0.1"


@dataclass(frozen=True)
class Installed:
    """A broker that runs with one of the files, with only paths and ports changed."""

    broker: Broker
    env: Environment
    tls_port: int
    websockets_port: int
    plain_port: int


@pytest.fixture(params=ENVIRONMENTS, scope="module")
def installed(request: pytest.FixtureRequest) -> Iterator[Installed]:
    env: Environment = request.param
    ports = [free_port() for _ in range(3)]

    class AsInstalled(LocalBroker):
        def configuration(self) -> str:
            text = config(env)
            replaced = {
                "/etc/ntppool-monitor/broker/common": str(self.parts.common),
                "/usr/lib/ntppool-monitor/jwt-auth.so": str(self.parts.plugin),
                f"/etc/ntppool-monitor/broker/{env}/": f"{self.directory}/",
                f"/var/lib/ntppool-monitor/broker/{env}/": f"{self.directory}/",
                **{f"listener {old}": f"listener {new}" for old, new in zip(listeners(text), ports, strict=True)},
            }
            for old, new in replaced.items():
                assert old in text
                text = text.replace(old, new)
            return f"user root\n{text}"

    broker = Broker(kind=AsInstalled)
    with broker:
        yield Installed(broker, env, *ports)


def client(installed: Installed, port: int, **more: object) -> MqttClient:
    token = installed.broker.token(Role.ADMIN, "joe", installed.env)
    return MqttClient(port, "joe", token, client_id=f"joe/{port}", **more)  # type: ignore[arg-type]


def tls(installed: Installed) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(installed.broker.process.directory / "ca.pem"))


def test_messages_pass_between_all_listeners(installed: Installed) -> None:
    clients = [
        client(installed, installed.tls_port, tls=tls(installed)),
        client(installed, installed.websockets_port, transport="websockets"),
        client(installed, installed.plain_port),
    ]
    topic = f"/{installed.env}/control/ingest"
    for each in clients:
        each.connect()
        assert each.subscribe(topic)
    for sender in clients:
        sender.publish(topic, "{}")
        for receiver in clients:
            (message,) = receiver.receive()
            assert user_properties(message) == [("sender", "joe")]
    for each in clients:
        each.close()


def addresses_listening_on(port: int) -> set[IPv4Address | IPv6Address]:
    """Read Linux's list of sockets, with addresses in hexadecimal: words of 32 bits in the host's byte order."""
    found: set[IPv4Address | IPv6Address] = set()
    for table in "tcp", "tcp6":
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = (line.split()[field] for field in (1, 3))
            address, at = local.split(":")
            if state == LISTEN and int(at, 16) == port:
                words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
                found.add(ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words)))
    return found


def test_ports_without_tls_listen_on_loopback_only(installed: Installed) -> None:
    assert addresses_listening_on(installed.websockets_port) == {IPv4Address("127.0.0.1")}
    assert addresses_listening_on(installed.plain_port) == {IPv4Address("127.0.0.1")}
    assert IPv4Address("127.0.0.1") not in addresses_listening_on(installed.tls_port), "agents come from elsewhere"


def test_every_listener_requires_a_valid_token(installed: Installed) -> None:
    wrong = {"name": "joe", "token": "wrong"}
    with pytest.raises(Refused, match="Not authorized"):
        MqttClient(installed.tls_port, **wrong, tls=tls(installed)).connect()  # type: ignore[arg-type]
    with pytest.raises(Refused, match="Not authorized"):
        MqttClient(installed.websockets_port, **wrong, transport="websockets").connect()  # type: ignore[arg-type]
    with pytest.raises(Refused, match="Not authorized"):
        MqttClient(installed.plain_port, **wrong).connect()  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1, False), (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)],
)
def test_tls_is_1_2_or_newer(installed: Installed, version: ssl.TLSVersion, accepted: bool) -> None:
    context = tls(installed)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", installed.tls_port), timeout=5) as plain:
        try:
            context.wrap_socket(plain, server_hostname="127.0.0.1").close()
            assert accepted
        except (ssl.SSLError, OSError):
            assert not accepted


@pytest.mark.parametrize("installed", ["prod"], indirect=True)
def test_websocket_client_is_disconnected_if_token_or_key_becomes_invalid(installed: Installed) -> None:
    def websocket(name: str, **claims: object) -> MqttClient:
        token = signed(installed.broker.key, name, **claims)
        return MqttClient(installed.websockets_port, name, token, transport="websockets").connect()

    stays, expires = websocket("stays"), websocket("expires", exp=int(time.time()) + 2)
    expires.wait_lost(7)
    assert stays.is_alive()
    old = installed.broker.key
    installed.broker.rotate(load_key("k" * 64), None)
    installed.broker.sighup()
    stays.wait_lost(5)
    installed.broker.rotate(old, None)
    installed.broker.sighup()
    block_until(lambda: installed.broker.log_text().count("tokens are checked") >= 3)
    websocket("stays").close()
    stays.close()
    expires.close()


# --- the common file ----------------------------------------------------------------------------------


def agent(broker: Broker, **more: object) -> MqttClient:
    return MqttClient(broker.port, NAME, broker.token(Role.MONITOR, NAME), **more)  # type: ignore[arg-type]


def test_new_subscriber_gets_all_retained_messages(broker: Broker) -> None:
    count = 3000
    name = "selector"
    with MqttClient(broker.port, name, broker.token(Role.SERVER, name), client_id="selector/config") as selector:
        for number in range(count):
            selector.publish(TOPICS.assignment(NAME, "v4", number), "{}", qos=0, retain=True)
        assert selector.is_alive()
        with agent(broker) as new:
            assert new.subscribe(TOPICS.assignments(NAME))
            got = {message.topic for message in new.receive(count)}
        assert len(got) == count
        for number in range(count):
            selector.publish(TOPICS.assignment(NAME, "v4", number), "", qos=0, retain=True)
        assert selector.is_alive()


def test_thousands_of_messages_are_queued_for_an_offline_session(broker: Broker) -> None:
    with agent(broker, keep=60) as away:
        away.subscribe(TOPICS.config(NAME))
    with MqttClient(broker.port, "writer", broker.token(Role.SERVER, "writer")) as writer:
        for number in range(3000):
            writer.publish(TOPICS.config(NAME), str(number), qos=1)
    with agent(broker, keep=60) as back:
        assert [int(message.payload) for message in back.receive(3000)] == list(range(3000))
    agent(broker).connect().close()


def test_denied_publish_does_not_end_the_connection(broker: Broker) -> None:
    with agent(broker) as monitor:
        for _ in range(3):
            assert monitor.publish(TOPICS.config(NAME), "x") == "Not authorized"
        assert monitor.is_alive()


def test_largest_payload_passes_and_larger_packets_end_the_connection(broker: Broker) -> None:
    topic = TOPICS.results(NAME, "v4")
    with agent(broker) as monitor:
        assert monitor.publish(topic, "x" * MAX_PAYLOAD_BYTES) in ("Success", "No matching subscribers")
        monitor.send(topic, "x" * (MAX_PAYLOAD_BYTES + 65536))
        assert monitor.wait_lost() == "Packet too large"


def test_packet_limit_leaves_room_for_topic_and_properties() -> None:
    assert int(dict(directives((CONFIG / "common" / "ntppool.conf").read_text()))["max_packet_size"]) == (
        MAX_PAYLOAD_BYTES + 65536
    )


# --- required contents of the files -------------------------------------------------------------------

COMMON = {
    "per_listener_settings": "false",
    "allow_anonymous": "false",
    "allow_zero_length_clientid": "false",
    "check_retain_source": "false",
    "max_queued_messages": "500000",
    "max_queued_bytes": "67108864",
    "max_inflight_messages": "1000",
    "max_inflight_bytes": "4194304",
    "queue_qos0_messages": "false",
    "set_tcp_nodelay": "true",
    "persistent_client_expiration": "2d",
    "max_keepalive": "300",
    "max_packet_size": "589824",
    "persistence": "true",
    "autosave_interval": "900",
    "log_dest": "stderr",
    "log_timestamp": "false",
    "log_type": ["error", "warning", "notice", "information"],
    "connection_messages": "true",
    "sys_interval": "10",
}
"""All directives of the common file, which gives the reason for each."""

BEFORE_THE_LISTENERS = [
    ("include_dir", "/etc/ntppool-monitor/broker/common"),
    ("plugin", "/usr/lib/ntppool-monitor/jwt-auth.so"),
    ("plugin_opt_key_file", "/etc/ntppool-monitor/broker/prod/jwt.key"),
    ("plugin_opt_previous_key_file", "/etc/ntppool-monitor/broker/prod/jwt-previous.key"),
    ("plugin_opt_revocations_file", "/var/lib/ntppool-monitor/broker/prod/revocations"),
    ("persistence_location", "/var/lib/ntppool-monitor/broker/prod/"),
]
LISTENERS = [
    [
        ("listener", "8883"),
        ("tls_version", "tlsv1.2"),
        ("cafile", "/etc/ntppool-monitor/broker/prod/ca.pem"),
        ("certfile", "/etc/ntppool-monitor/broker/prod/cert.pem"),
        ("keyfile", "/etc/ntppool-monitor/broker/prod/key.pem"),
        ("require_certificate", "false"),
        ("max_connections", "2000"),
    ],
    [
        ("listener", "9001 127.0.0.1"),
        ("socket_domain", "ipv4"),
        ("protocol", "websockets"),
        ("max_connections", "200"),
    ],
    [("listener", "1883 127.0.0.1")],
]


def directives(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition(" ") for line in lines)]


def test_common_file_contains_exactly_these_directives() -> None:
    said: dict[str, object] = {}
    for name, value in directives((CONFIG / "common" / "ntppool.conf").read_text()):
        before = said.get(name)
        said[name] = value if before is None else [*(before if isinstance(before, list) else [before]), value]
    assert said == COMMON
    assert [file.name for file in (CONFIG / "common").iterdir()] == ["ntppool.conf"]


def test_environment_file_contains_exactly_these_directives() -> None:
    said = directives(config("prod"))
    at = [number for number, (name, _) in enumerate(said) if name == "listener"]
    assert said[: at[0]] == BEFORE_THE_LISTENERS
    assert [said[begin:end] for begin, end in zip(at, [*at[1:], None], strict=True)] == LISTENERS


def test_client_certificates_are_switched_on_by_the_two_lines_in_the_file() -> None:
    plain, public_port = free_port(), free_port()

    class Switched(Strict):
        env: Environment = "prod"

        def configuration(self) -> str:
            text = config("prod").replace("\nrequire_certificate false\n", "\n")
            text = text.replace("\n#require_certificate", "\nrequire_certificate").replace("\n#crlfile", "\ncrlfile")
            paths = {
                "/etc/ntppool-monitor/broker/common": str(self.parts.common),
                "/usr/lib/ntppool-monitor/jwt-auth.so": str(self.parts.plugin),
                "/etc/ntppool-monitor/broker/prod/": f"{self.directory}/",
                "/var/lib/ntppool-monitor/broker/prod/": f"{self.directory}/",
                "/var/lib/ntppool-monitor/crl/prod.pem": str(self.crl_file),
            }
            for old, new in paths.items():
                assert old in text
                text = text.replace(old, new)
            sections = text.split("\nlistener ")
            assert len(sections) == 4
            public, local = (section.partition("\n")[2] for section in (sections[1], sections[3]))
            self.listen_at(plain)
            self.tls_port = public_port
            return f"user root\n{sections[0]}\nlistener {public_port}\n{public}\nlistener {plain} 127.0.0.1\n{local}"

    with StrictBroker(kind=Switched) as broker:
        name = NAME.replace(".test.", ".prod.")
        own, other = broker.issue(name), broker.issue("other-x.prod.mon.example")
        assert broker.refuses(None)
        broker.client(own, name, env="prod").connect().close()
        with pytest.raises(Refused, match="Not authorized"):
            broker.client(other, name, env="prod").connect()
        with MqttClient(broker.port, "ingest", broker.token(Role.SERVER, "ingest", "prod")) as worker:
            assert worker.is_alive()
        broker.revoke(own)
        broker.sighup()
        block_until(lambda: broker.refuses(own))


class FewConnections(LocalBroker):
    """A broker with one listener that accepts three connections, and another without a limit."""

    def configuration(self) -> str:
        first = next(line for line in super().configuration().splitlines() if line.startswith("listener"))
        return super().configuration().replace(f"{first}\n", f"{first}\nmax_connections 3\n", 1)


def test_full_listener_refuses_clients_without_affecting_others() -> None:
    with Broker(kind=FewConnections) as broker, ExitStack() as sockets:
        idle = [sockets.enter_context(socket.create_connection(("127.0.0.1", broker.port), timeout=10)) for _ in "123"]
        block_until(lambda: broker.log_text().count("New connection") == 3)
        with pytest.raises(Refused):
            agent(broker).connect()
        assert "denied: max_connections exceeded" in broker.log_text()
        address = broker.process.address(tls=True)
        worker = MqttClient(address.port, "ingest", broker.token(Role.SERVER, "ingest"), tls=address.tls())
        worker.connect().close()
        idle[0].close()

        def is_let_in() -> bool:
            try:
                agent(broker).connect().close()
            except Refused:
                return False
            return True

        block_until(is_let_in)

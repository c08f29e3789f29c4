"""Test the plugin with this system's version of Mosquitto: linked libraries, and ownership of memory.

Mosquitto changed both between 2.0.11 and 2.1. These tests apply to every version, and run on several systems.
"""

import base64
import http.client
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from auth.tokens import Role, load_key
from schema.topics import Topics
from testbed.broker import BrokerUnavailable, LocalBroker
from testbed.fixtures.broker import SANITIZE, Broker
from testbed.fixtures.mqtt import MqttClient, signed, user_properties
from testbed.ports import ADDRESS, free_port
from testbed.waiting import block_until

CONTROL = Topics("test").service_control("scorer")


def client(broker: Broker, name: str, role: Role) -> MqttClient:
    return MqttClient(broker.port, name, broker.token(role, name), client_id=f"{name}/versions")


def symbols(file: str | Path, kind: str) -> set[str]:
    """Return the symbols that a program or library needs (``undefined``) or provides (``defined``)."""
    listed = subprocess.run(["nm", "--dynamic", f"--{kind}-only", file], capture_output=True, text=True, check=True)
    lines = (line.split() for line in listed.stdout.splitlines())
    return {words[-1].partition("@")[0] for words in lines if words[-2] not in "wv"}


def libraries(file: Path) -> dict[str, str]:
    """Return the paths of the libraries that a file is directly linked with."""
    asked = subprocess.run(["readelf", "--dynamic", file], capture_output=True, text=True, check=True).stdout
    found = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
    paths = dict(re.findall(r"^\s*(\S+) => (\S+)", found, re.M))
    return {name: paths[name] for name in re.findall(r"\(NEEDED\).*\[(.+)\]", asked) if name in paths}


def test_broker_and_linked_libraries_provide_all_symbols_of_the_plugin(broker: Broker) -> None:
    parts = broker.process.parts
    needed = {name for name in symbols(parts.plugin, "undefined") if name.startswith(("mosquitto_", "jwt_"))}
    offered = symbols(broker.program, "defined")
    for library in libraries(parts.plugin).values():
        offered |= symbols(library, "defined")
    assert len(needed) > 10
    assert needed <= offered


def resident_bytes(broker: Broker) -> int:
    assert broker.process.process is not None
    status = Path(f"/proc/{broker.process.process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.M)
    return int(kilobytes) * 1024


@pytest.mark.skipif(SANITIZE, reason="the sanitizer keeps freed memory; it reports leaks itself")
def test_control_commands_leak_no_memory(fresh_broker: Broker) -> None:
    with client(fresh_broker, "ann", Role.ADMIN) as admin:
        said = [("sender", "bob"), *(("name", "v" * 1000) for _ in range(100))]

        def give(orders: int) -> None:
            for _ in range(orders):
                admin.publish(CONTROL, "{}", props={"UserProperty": said})
                admin.publish(CONTROL, "{}", props={"UserProperty": said[1:]})

        give(50)
        before = resident_bytes(fresh_broker)
        give(200)
        # Each list of properties takes 100 KB.
        assert resident_bytes(fresh_broker) - before < 4_000_000


def test_control_command_with_empty_properties_is_stamped(broker: Broker) -> None:
    worker, admin = client(broker, "scorer", Role.SERVER), client(broker, "ann", Role.ADMIN)
    said: dict[str, object] = {"ContentType": "", "CorrelationData": b"", "UserProperty": [("", ""), ("sender", "")]}
    with worker, admin:
        worker.subscribe(CONTROL)
        for _ in range(20):
            admin.publish(CONTROL, "", props=said)
        for message in worker.receive(20):
            assert user_properties(message) == [("", ""), ("sender", "ann")]
            assert message.properties.ContentType == ""  # type: ignore[attr-defined]  # paho sets it at run time


def test_broker_survives_alternating_reloads_and_control_commands(fresh_broker: Broker) -> None:
    admin, worker = client(fresh_broker, "ann", Role.ADMIN), client(fresh_broker, "scorer", Role.SERVER)
    with admin, worker:
        worker.subscribe(CONTROL)
        for count in range(1, 6):
            fresh_broker.sighup()
            block_until(lambda count=count: fresh_broker.log_text().count("tokens are checked") > count)  # type: ignore[misc]
            admin.publish(CONTROL, "{}", props={"UserProperty": [("sender", "eve")]})
            assert user_properties(worker.receive()[0]) == [("sender", "ann")]
    assert "rror" not in fresh_broker.log_text()


# --- a libmosquitto of another version ----------------------------------------------------------------


@pytest.fixture
def foreign_library(tmp_path: Path) -> Path:
    """A library that claims to be libmosquitto 2.1 if 2.0 is installed, and vice versa."""
    source, library = tmp_path / "foreign.c", tmp_path / "foreign.so"
    source.write_text(
        "#include <mosquitto.h>\n"
        "int mosquitto_lib_version(int *major, int *minor, int *revision)\n"
        "{ (void)major; (void)minor; (void)revision;\n"
        "  return LIBMOSQUITTO_VERSION_NUMBER < 2001000 ? 2001002 : 2000021; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_plugin_refuses_a_broker_of_another_version_than_libmosquitto(foreign_library: Path, tmp_path: Path) -> None:
    broker = Broker()
    program = tmp_path / "mosquitto"
    program.write_text(
        f'#!/bin/sh\nLD_PRELOAD="$LD_PRELOAD {foreign_library}" exec {broker.process.parts.program} "$@"\n'
    )
    program.chmod(0o755)
    broker.process.parts = replace(broker.process.parts, program=program)
    with pytest.raises(BrokerUnavailable, match=r"libmosquitto is of version 2\.\d, but the broker"), broker:
        pass


# --- features of newer brokers ------------------------------------------------------------------------


class WithWebsockets(LocalBroker):
    """A broker with an additional listener for websockets."""

    websockets_port = 0

    def configuration(self) -> str:
        self.websockets_port = self.websockets_port or free_port()
        return super().configuration() + f"listener {self.websockets_port} {ADDRESS}\nprotocol websockets\n"


@pytest.fixture
def websockets_broker() -> Iterator[Broker]:
    with Broker(kind=WithWebsockets) as running:
        yield running


def test_disconnected_websocket_sessions_survive_reloads(websockets_broker: Broker) -> None:
    process = websockets_broker.process
    assert isinstance(process, WithWebsockets)

    def agent(number: int) -> MqttClient:
        token = signed(websockets_broker.key, "joe", subs=["/test/#"])
        where = process.websockets_port
        return MqttClient(where, "joe", token, client_id=f"joe/{number}", transport="websockets", keep=600)

    for number in range(5):
        with agent(number) as first:
            first.subscribe("/test/x")
    block_until(lambda: websockets_broker.log_text().count("joe/") >= 10)
    before = len(websockets_broker.log_text())
    for count in range(2, 5):
        websockets_broker.rotate(load_key("n" * 64), None)
        websockets_broker.sighup()
        block_until(lambda count=count: websockets_broker.log_text().count("tokens are checked") >= count)  # type: ignore[misc]
    for number in range(5):
        with agent(number) as returned:
            assert returned.session_present
    assert "refused" not in websockets_broker.log_text()[before:]


class WithHttp(LocalBroker):
    """A broker with the additional HTTP interface of Mosquitto 2.1."""

    http_port = 0

    def configuration(self) -> str:
        self.http_port = self.http_port or free_port()
        return super().configuration() + f"listener {self.http_port} {ADDRESS}\nprotocol http_api\n"


@pytest.fixture
def http_broker() -> Iterator[Broker]:
    try:
        with Broker(kind=WithHttp) as running:
            yield running
    except BrokerUnavailable as unavailable:
        assert "http_api" in str(unavailable)
        pytest.skip("this Mosquitto has no HTTP interface")


def test_http_interface_refuses_all_logins(http_broker: Broker) -> None:
    assert isinstance(http_broker.process, WithHttp)
    # Mosquitto uses the client id http-api there.
    for login in ("joe:wrong", f"http-api:{signed(http_broker.key, 'http-api', subs=['#'])}"):
        connection = http.client.HTTPConnection(ADDRESS, http_broker.process.http_port, timeout=5)
        basic = base64.b64encode(login.encode()).decode()
        connection.request("GET", "/api/v1/systree", headers={"Authorization": f"Basic {basic}"})
        assert connection.getresponse().status == 401
        connection.close()

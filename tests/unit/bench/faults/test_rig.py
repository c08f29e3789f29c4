"""Test when a fault run considers a broker ready, and so reloads it: an earlier signal would end it."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.faults import rig
from runtime.mqtt.types import BrokerAddress
from testbed.tls import LocalCa

CONNACK = bytes((0x20, 3, 0x87, 0, 0))


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Listen on a port, and pass one accepted connection to ``answer``."""

    def serve() -> None:
        with server.accept()[0] as connection:
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield server.getsockname()[1]
        serving.join(10)


def handshake(tmp_path: Path, *, certificate: bool) -> Callable[[socket.socket], object]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate:
        made = LocalCa().issue("127.0.0.1")
        file = tmp_path / "both.pem"
        file.write_text(made.certificate + made.key)
        context.load_cert_chain(file)

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True):
            pass

    return answer


def refuses(connection: socket.socket) -> None:
    assert connection.recv(100)
    connection.sendall(CONNACK)


def serves(port: int, *, tls: bool) -> bool:
    return rig._serves(BrokerAddress("127.0.0.1", port, ca_file=Path("ca.pem") if tls else None))


@pytest.mark.parametrize("certificate", [True, False], ids=["whole files", "files that are being replaced"])
def test_broker_that_completes_or_refuses_a_handshake_is_ready(tmp_path: Path, certificate: bool) -> None:
    with listening(handshake(tmp_path, certificate=certificate)) as port:
        assert serves(port, tls=True)


def test_broker_that_refuses_a_client_without_a_token_is_ready() -> None:
    with listening(refuses) as port:
        assert serves(port, tls=False)


@pytest.mark.parametrize("tls", [True, False])
def test_broker_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(rig, "_ANSWERS_WITHIN", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not serves(port, tls=tls), "it is not taken"
    assert not serves(port, tls=tls), "it is gone"


@pytest.mark.parametrize("tls", [True, False])
def test_broker_that_closes_the_connection_is_not_ready(tls: bool) -> None:
    with listening(lambda connection: connection.recv(1000)) as port:
        assert not serves(port, tls=tls)

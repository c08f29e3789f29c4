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
    """A port at which one connection is taken and given to ``answer``."""

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
def test_a_broker_that_answers_a_handshake_serves_even_by_refusing_it(tmp_path: Path, certificate: bool) -> None:
    with listening(handshake(tmp_path, certificate=certificate)) as port:
        assert serves(port, tls=True)


def test_a_broker_that_refuses_who_shows_no_token_serves() -> None:
    with listening(refuses) as port:
        assert serves(port, tls=False)


@pytest.mark.parametrize("tls", [True, False])
def test_a_port_behind_which_nobody_answers_does_not_serve(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(rig, "_ANSWERS_WITHIN", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not serves(port, tls=tls), "it is not taken"
    assert not serves(port, tls=tls), "it is gone"


@pytest.mark.parametrize("tls", [True, False])
def test_a_broker_that_ends_while_it_starts_does_not_serve(tls: bool) -> None:
    with listening(lambda connection: connection.recv(1000)) as port:
        assert not serves(port, tls=tls)

"""Test a real broker that requires certificates of the CA and reads its revocation list."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from auth.ca.authority import IssuedCertificate, Revocation
from auth.ca.files import FileAuthority
from auth.ca.list_file import write_list
from auth.ca.request import new_key, parse_request
from auth.tokens import Role
from testbed.broker import LocalBroker
from testbed.fixtures.broker import Broker
from testbed.fixtures.certificates import key_pem, request_pem
from testbed.fixtures.mqtt import MqttClient
from testbed.ports import ADDRESS, loopback_addresses
from testbed.tls import Certificate
from testbed.waiting import PATIENCE, block_until

MONITOR = "cert1-x.test.mon.example"
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = parse_request(request_pem(KEY))
DAYS = timedelta(days=90)


class StrictBroker(LocalBroker):
    """A broker with a certificate of the CA, which admits only clients with one that is not revoked."""

    @property
    def authority(self) -> FileAuthority:
        return FileAuthority(self.directory / "ca", "test")

    @property
    def crl_file(self) -> Path:
        return self.directory / "crl.pem"

    def prepare(self) -> list[str]:
        command = super().prepare()
        if not (self.directory / "ca").exists():
            self.authority.create()
            write_list(self.crl_file, lambda: self.authority.revocation_list([]))
        self._write("ca.pem", self.authority.bundle())
        made = new_key()
        self.show(Certificate(self.authority.sign_server(made.request, loopback_addresses(), DAYS).chain, made.key))
        return command

    def configuration(self) -> str:
        strict = f"require_certificate true\ncrlfile {self.crl_file}"
        text = super().configuration()
        assert "require_certificate false" in text
        return text.replace("require_certificate false", strict)


@pytest.fixture
def strict() -> Iterator[Broker]:
    with Broker(kind=StrictBroker) as running:
        yield running


def process(broker: Broker) -> StrictBroker:
    assert isinstance(broker.process, StrictBroker)
    return broker.process


def client_tls(directory: Path, made: IssuedCertificate | None, trusted: str) -> ssl.SSLContext:
    tls = ssl.create_default_context(cadata=trusted)
    # The broker checks the certificate within the handshake. In TLS 1.3, clients learn of a refusal only later.
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    if made is not None:
        (directory / "cert.pem").write_text(made.chain)
        (directory / "key.pem").write_text(key_pem(KEY))
        tls.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return tls


def log_in(broker: Broker, directory: Path, made: IssuedCertificate, trusted: str) -> None:
    """Log in with a valid token, and this certificate."""
    token = broker.token(Role.MONITOR, MONITOR)
    with MqttClient(process(broker).tls_port, MONITOR, token, tls=client_tls(directory, made, trusted)):
        pass


def sign(broker: Broker) -> IssuedCertificate:
    return process(broker).authority.sign_monitor(REQUEST, MONITOR, DAYS)


def revoke(broker: Broker, *given: IssuedCertificate) -> None:
    revoked = [Revocation(one.serial, datetime.now(UTC)) for one in given]
    write_list(process(broker).crl_file, lambda: process(broker).authority.revocation_list(revoked))


def is_refused(broker: Broker, directory: Path, made: IssuedCertificate | None, trusted: str) -> bool:
    """Return whether the broker ends the handshake."""
    tls = client_tls(directory, made, trusted)
    connection = socket.create_connection((ADDRESS, process(broker).tls_port), timeout=PATIENCE)
    try:
        tls.wrap_socket(connection, server_hostname=ADDRESS).close()
    except ssl.SSLCertVerificationError:
        raise  # it is we who refuse the broker
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def test_client_needs_a_certificate_of_the_ca(strict: Broker, tmp_path: Path) -> None:
    trusted = process(strict).authority.bundle()
    log_in(strict, tmp_path, sign(strict), trusted)
    assert is_refused(strict, tmp_path, None, trusted)
    other = FileAuthority(tmp_path / "other", "test")
    other.create()
    assert is_refused(strict, tmp_path, other.sign_monitor(REQUEST, MONITOR, DAYS), trusted)


def test_certificate_for_servers_only_is_refused(strict: Broker, tmp_path: Path) -> None:
    authority = process(strict).authority
    trusted = authority.bundle()
    assert is_refused(strict, tmp_path, authority.sign_server(REQUEST, [MONITOR], DAYS), trusted)
    log_in(strict, tmp_path, authority.sign_server(REQUEST, [MONITOR], DAYS, client=True), trusted)


def test_revoked_certificate_is_refused_after_a_reload(strict: Broker, tmp_path: Path) -> None:
    trusted = process(strict).authority.bundle()
    revoked, other = sign(strict), sign(strict)
    log_in(strict, tmp_path, revoked, trusted)
    revoke(strict, revoked)
    strict.sighup()
    block_until(lambda: is_refused(strict, tmp_path, revoked, trusted), "the revoked certificate is refused")
    log_in(strict, tmp_path, other, trusted)


def test_revoked_certificate_is_refused_after_a_restart(strict: Broker, tmp_path: Path) -> None:
    trusted = process(strict).authority.bundle()
    revoked = sign(strict)
    revoke(strict, revoked)
    strict.restart()
    assert is_refused(strict, tmp_path, revoked, trusted)
    log_in(strict, tmp_path, sign(strict), trusted)


def test_new_root_is_accepted_after_a_reload_of_its_list(strict: Broker, tmp_path: Path) -> None:
    trusted = process(strict).authority.bundle()
    former = sign(strict)
    process(strict).authority.renew(notice=timedelta(0))
    new, revoked = sign(strict), sign(strict)
    assert is_refused(strict, tmp_path, new, trusted), "without a list of the new root"
    revoke(strict, revoked)
    strict.sighup()
    block_until(lambda: not is_refused(strict, tmp_path, new, trusted), "the new root is accepted")
    log_in(strict, tmp_path, former, trusted)
    assert is_refused(strict, tmp_path, revoked, trusted)

"""Test certificates and keys replaced at run time: valid ones are used until newer ones are valid."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from runtime.mqtt.tls_files import TlsFiles
from runtime.mqtt.types import BrokerAddress, TlsUnusable
from testbed.tls import Certificate, LocalCa


class Files:
    """A CA's certificate, and a client's with its key."""

    def __init__(self, directory: Path) -> None:
        self.ca = LocalCa()
        names = ("ca.pem", "cert.pem", "key.pem")
        self.ca_file, self.cert_file, self.key_file = (directory / name for name in names)
        self.address = BrokerAddress("::1", 8883, self.ca_file, self.cert_file, self.key_file)
        self.ca_file.write_text(self.ca.certificate)
        self.write(self.issue())

    def issue(self) -> Certificate:
        return self.ca.issue("client.example")

    def write(self, pair: Certificate) -> None:
        self.cert_file.write_text(pair.certificate)
        self.key_file.write_text(pair.key)

    def encrypt_key(self) -> None:
        key = serialization.load_pem_private_key(self.key_file.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"secret")
        self.key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


BROKEN: dict[str, Callable[[Files], object]] = {
    "only the certificate is new": lambda files: files.cert_file.write_text(files.issue().certificate),
    "only the key is new": lambda files: files.key_file.write_text(files.issue().key),
    "no key": lambda files: files.key_file.unlink(),
    "no certificate": lambda files: files.cert_file.unlink(),
    "half a certificate": lambda files: files.cert_file.write_text(files.issue().certificate[:100]),
    "an encrypted key": Files.encrypt_key,
    "an empty key": lambda files: files.key_file.write_text(""),
    "no CA": lambda files: files.ca_file.unlink(),
    "an empty CA": lambda files: files.ca_file.write_text(""),
    "half a CA": lambda files: files.ca_file.write_text(files.ca.certificate[:100]),
    "a CA of binary rubbish": lambda files: files.ca_file.write_bytes(bytes(range(256)) * 40),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN)
def test_previous_context_stays_until_the_files_are_usable(
    files: Files, breaks: Callable[[Files], object], caplog: pytest.LogCaptureFixture
) -> None:
    tls = TlsFiles(files.address)
    before = tls.context()
    assert before is not None and tls.context() is before, "nothing changed, so nothing is read again"
    breaks(files)
    assert tls.context() is before
    assert "continuing with the previous certificates and key" in caplog.text
    assert str(files.ca_file.parent) in caplog.text, "the message names the file"
    files.ca_file.write_text(files.ca.certificate)
    files.write(files.issue())
    assert tls.context() not in (before, None)


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN)
def test_unusable_files_are_an_error_and_are_read_again(files: Files, breaks: Callable[[Files], object]) -> None:
    breaks(files)
    tls = TlsFiles(files.address)
    for _ in range(2):
        with pytest.raises(TlsUnusable, match=r"certificates or key cannot be used: .*pem"):
            tls.context()
    assert not tls.loaded
    files.ca_file.write_text(files.ca.certificate)
    files.write(files.issue())
    assert isinstance(tls.context(), ssl.SSLContext)


def test_files_refused_by_the_check_are_not_used(files: Files) -> None:
    allowed = False

    def check() -> None:
        if not allowed:
            raise PermissionError("key.pem: is open to others")

    tls = TlsFiles(files.address, check)
    with pytest.raises(TlsUnusable, match="open to others"):
        tls.context()
    allowed = True
    assert tls.context() is not None


def test_change_of_file_mode_is_noticed(files: Files) -> None:
    tls = TlsFiles(files.address)
    before = tls.stamp
    files.key_file.chmod(0o640)
    assert tls.stamp != before


def test_plain_tcp_needs_no_files() -> None:
    tls = TlsFiles(BrokerAddress("127.0.0.1", 1883))
    assert tls.context() is None
    assert tls.loaded


def test_tls_is_at_least_version_1_2_and_checks_the_host(files: Files) -> None:
    context = TlsFiles(files.address).context()
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED

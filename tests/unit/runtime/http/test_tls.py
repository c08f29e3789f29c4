"""Test the API's certificate: replaced files count for new connections, and broken ones change nothing."""

import ssl
from pathlib import Path

import pytest

from runtime.http.tls import ServerTls
from testbed.tls import Certificate, LocalCa


def write(directory: Path, made: Certificate) -> tuple[Path, Path]:
    files = directory / "cert.pem", directory / "key.pem"
    for path, text in zip(files, (made.certificate, made.key), strict=True):
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)
    return files


def shown(tls: ServerTls, ca: LocalCa, host: str | None, *, most: ssl.TLSVersion | None = None) -> bytes | None:
    """Return the certificate that a client sees in a handshake, by memory only."""
    context = ssl.create_default_context(cadata=ca.certificate)
    context.check_hostname = host is not None
    if most is not None:
        context.maximum_version = most
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=host)
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.getpeercert(binary_form=True)


@pytest.mark.parametrize("host", ["api.example", None])
def test_a_new_pair_counts_for_new_connections(tmp_path: Path, host: str | None) -> None:
    ca = LocalCa()
    first, second = ca.issue("api.example"), ca.issue("api.example")
    tls = ServerTls(*write(tmp_path, first))
    assert shown(tls, ca, host) == ssl.PEM_cert_to_DER_cert(first.certificate)
    assert not tls.reload()
    write(tmp_path, second)
    assert tls.reload() and not tls.reload()
    assert shown(tls, ca, host) == ssl.PEM_cert_to_DER_cert(second.certificate)


def test_files_that_do_not_match_change_nothing(tmp_path: Path) -> None:
    ca = LocalCa()
    first, second = ca.issue("api.example"), ca.issue("api.example")
    tls = ServerTls(*write(tmp_path, first))
    write(tmp_path, Certificate(second.certificate, first.key))
    assert not tls.reload()
    assert shown(tls, ca, "api.example") == ssl.PEM_cert_to_DER_cert(first.certificate)
    write(tmp_path, second)
    assert tls.reload(), "tried again when they change"


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    ca = LocalCa()
    tls = ServerTls(*write(tmp_path, ca.issue("api.example")))
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert shown(tls, ca, "api.example", most=ssl.TLSVersion.TLSv1_2) is not None


def test_invalid_files_are_an_error_in_words(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text("x")
    key.write_text("x")
    with pytest.raises(OSError, match=r"cert\.pem"):
        ServerTls(certificate, key)

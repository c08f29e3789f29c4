"""Test local servers' certificates: issuer, names, and the clients that refuse them."""

import ssl
from pathlib import Path

import pytest

from testbed.tls import Certificate, LocalCa


def server(directory: Path, certificate: Certificate) -> ssl.SSLContext:
    (directory / "cert.pem").write_text(certificate.certificate)
    (directory / "key.pem").write_text(certificate.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Return the TLS version that both sides negotiate, without a network."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return str(ours.version())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "broker.example"])
def test_certificate_is_valid_only_with_its_ca_and_for_its_hosts(tmp_path: Path, host: str) -> None:
    ca = LocalCa()
    trusting = ssl.create_default_context(cadata=ca.certificate)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    right = server(tmp_path, ca.issue("127.0.0.1", "::1", "broker.example"))
    assert shake_hands(right, trusting, host) >= "TLSv1.2"
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(server(tmp_path, ca.issue("other.example", "192.0.2.1")), trusting, host)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(server(tmp_path, LocalCa().issue(host)), trusting, host)

"""A broker of our own that listens with TLS as well, with certificates of a CA that lasts as long as a benchmark.

Agents connect with TLS, which costs them memory and time; a measurement without it would flatter them.
"""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ops.local_broker import BrokerParts, LocalBroker
from ops.local_ports import ADDRESS, free_port

_LIFETIME = timedelta(days=1)


class TlsBroker(LocalBroker):
    """A :class:`LocalBroker` with a second listener, of which ``tls_port`` is the port and ``ca_file`` the CA."""

    def __init__(self, directory: Path, port: int, key: str, *, parts: BrokerParts | None = None) -> None:
        super().__init__(directory, port, key, parts=parts)
        self.ca_file = self.directory / "ca.pem"
        self.tls_port = free_port()
        while self.tls_port == self.port:
            self.tls_port = free_port()

    def prepare(self) -> list[str]:
        """Also makes the certificates."""
        command = super().prepare()
        make_certificates(self.directory)
        return command

    def configuration(self) -> str:
        """As monitors are met by a broker of the pool: TLS 1.2 or newer, and no client certificate asked for."""
        lines = [
            f"listener {self.tls_port} {ADDRESS}",
            "tls_version tlsv1.2",
            f"cafile {self.ca_file}",
            f"certfile {self.directory / 'cert.pem'}",
            f"keyfile {self.directory / 'key.pem'}",
            "require_certificate false",
        ]
        return super().configuration() + "\n".join(lines) + "\n"


def make_certificates(directory: Path) -> None:
    """Writes ``ca.pem``, and ``cert.pem`` with ``key.pem`` for the loopback address. The CA's key is kept nowhere."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("CA of a benchmark")
    ca = (
        _certificate(issuer, issuer, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        _certificate(_name(ADDRESS), issuer, key)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path = directory / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(private)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
    )

"""A management API that gives agents tokens and certificates, and a broker that wants to see those certificates.

For tests and benchmarks of real agents: unlike the pool's API, it keeps nothing, and confirms whatever it is told to.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from auth.tokens import Role, SigningKey, sign
from schema.names import Environment
from testbed.broker import LocalBroker
from testbed.recording_api import Asked, RecordingApi, Reply, refuse, say
from testbed.tls import MAY_SIGN

TOKEN_PATH: Final = "/monitor/api/token"  # noqa: S105  # a path
CERTIFICATE_PATH: Final = "/monitor/api/certificate"

TOKEN_LIFETIME: Final = timedelta(hours=6)
CERTIFICATE_LIFETIME: Final = timedelta(days=90)

DUE: Final = 0.7
"""Share of its life after which a token or certificate is certainly due for renewal."""


class Issuer:
    """A CA that signs agents' requests. Its key exists in this process only."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of local agents")])
        now = datetime.now(UTC)
        self._root = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=365))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(MAY_SIGN, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.lifetime = CERTIFICATE_LIFETIME
        self.used = 0.0
        """Share of a new certificate's life that is over already."""
        self.requests: list[bytes] = []
        """The requests that were signed."""

    @property
    def certificate(self) -> str:
        """The certificate by which a broker checks the agents'."""
        return self._root.public_bytes(Encoding.PEM).decode()

    def sign(self, asked: Asked) -> Reply:
        """Answer a request for a certificate."""
        request = x509.load_pem_x509_csr(asked.body)
        assert request.is_signature_valid
        self.requests.append(asked.body)
        begins = datetime.now(UTC) - timedelta(minutes=1) - self.lifetime * self.used
        made = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self._name)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + self.lifetime)
            .add_extension(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
            .sign(self._key, hashes.SHA256())
        )
        return say(certificate=made.public_bytes(Encoding.PEM).decode())


class AgentApi(RecordingApi):
    """An API that gives the monitor :attr:`name` all that it needs.

    Args:
        key: signs the tokens, which the broker must accept.
        settings: those of :class:`testbed.recording_api.RecordingApi`.
    """

    def __init__(
        self, key: SigningKey, env: Environment = "devel", issuer: Issuer | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.issuer = issuer or Issuer()
        self.token_used = 0.0
        """Share of a new token's life that is over already."""
        self._key = key
        self._env: Environment = env

    def answer(self, asked: Asked) -> Reply:
        """Act on a request and return the answer."""
        path = asked.path.partition("?")[0]
        if path in self.overrides or path not in (TOKEN_PATH, CERTIFICATE_PATH):
            return super().answer(asked)
        if not self.accepts(asked):
            return refuse(401, "this API key is not valid")
        return self._token() if path == TOKEN_PATH else self.issuer.sign(asked)

    def _token(self) -> Reply:
        issued = datetime.now(UTC) - TOKEN_LIFETIME * self.token_used
        token = sign(self._key, Role.MONITOR, self.name, self._env, now=issued, lifetime=TOKEN_LIFETIME)
        return say(token=token, expires_on=(issued + TOKEN_LIFETIME).isoformat())


class CertifyingBroker(LocalBroker):
    """A broker whose TLS clients must show a certificate of :attr:`issuer`."""

    issuer: Issuer

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.issuer = Issuer()

    def configuration(self) -> str:
        """Return the configuration."""
        trusted = self.directory / "agents-ca.pem"
        self._write(trusted.name, self.issuer.certificate)
        text = super().configuration()
        for former, line in (
            (f"cafile {self.directory / 'ca.pem'}", f"cafile {trusted}"),
            ("require_certificate false", "require_certificate true"),
        ):
            assert f"\n{former}\n" in text, former
            text = text.replace(f"\n{former}\n", f"\n{line}\n")
        return text


def told_broker(broker: LocalBroker, host: str = "127.0.0.1") -> dict[str, Any]:
    """Return what the API tells agents about this broker, reached by TLS."""
    address = broker.address(host, tls=True)
    return {"host": address.host, "port": address.port, "ca": broker.ca.certificate}


def server_pair(broker: LocalBroker, directory: Path) -> tuple[Path, Path]:
    """Write a certificate for an API on this machine, of the broker's CA, and its key; return their paths."""
    made = broker.ca.issue("localhost", "127.0.0.1", "::1")
    certificate, key = directory / "api.pem", directory / "api.key"
    certificate.write_text(made.certificate)
    key.touch(mode=0o600)
    key.write_text(made.key)
    return certificate, key

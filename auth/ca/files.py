"""Keep a CA in files: one private file per root, with its key, its certificate and its cross-certificates.

``renew`` adds a root, which signs a day later: a broker refuses certificates of a root of which it has no revocation
list, so it must get that first. A former root stays in the bundle until its end, with its key, because its certificates
are still in use and a revocation list must be signed by their issuer. Brokers and agents that do not know the new root
yet accept its certificates through its cross-certificate, which every chain contains.

Files are read for each signature, so a renewal by another process counts at once.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from auth.ca.authority import (
    AuthorityUnavailable,
    CaError,
    IssuedCertificate,
    NoAuthority,
    Revocation,
    check_lifetime,
)
from auth.ca.contents import (
    CLIENT,
    SERVER,
    Draft,
    Signer,
    as_pem,
    cross_certificate,
    issued,
    leaf_certificate,
    revocation_list,
    root_certificate,
)
from auth.ca.hosts import general_names
from auth.ca.private_files import check_private_directory, make_private_directory, read_private, write_new
from auth.ca.request import SigningRequest
from schema.names import Environment, check_monitor_name

ROOT_LIFETIME: Final = timedelta(days=20 * 365)
NOTICE: Final = timedelta(days=1)
"""Time between a renewal and the first signature, in which brokers and agents learn of the new root."""

_FILES: Final = "root-{:06d}.pem"
_PATTERN: Final = "root-[0-9][0-9][0-9][0-9][0-9][0-9].pem"
_SIGNS_FROM: Final = re.compile(rb"Signs-From: ([0-9T:.+-]{1,40})\n")
"""The first line of a file, before the PEM."""


class AlreadyThere(CaError):
    """The CA, or the root that was to be added, exists already."""


@dataclass(frozen=True, slots=True, repr=False)
class Root:
    """A root in its file. ``crosses`` lead to the former roots: each signs the key of the next newer one."""

    number: int
    signs_from: datetime
    signer: Signer
    crosses: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """The self-signed certificate."""
        return self.signer.certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def is_valid(self, now: datetime) -> bool:
        """Return whether the root has begun and not ended."""
        return self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc


class FileAuthority:
    """The CA of one environment in a directory; see :class:`auth.ca.authority.Authority`."""

    def __init__(self, directory: Path, env: Environment) -> None:
        self.directory = directory
        self._env = env

    def sign_monitor(self, request: SigningRequest, name: str, lifetime: timedelta) -> IssuedCertificate:
        """Sign a certificate for a monitor."""
        names = [x509.DNSName(check_monitor_name(name, self._env))]
        return self._sign(request, names, (CLIENT, SERVER), lifetime)

    def sign_server(
        self, request: SigningRequest, hosts: Sequence[str], lifetime: timedelta, *, client: bool = False
    ) -> IssuedCertificate:
        """Sign a certificate for a server."""
        return self._sign(request, general_names(hosts), (SERVER, CLIENT) if client else (SERVER,), lifetime)

    def _sign(
        self,
        request: SigningRequest,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        lifetime: timedelta,
    ) -> IssuedCertificate:
        now = _now()
        root = signing_root(self.roots(), now)
        draft = Draft(request.public_key, names, usages, now, check_lifetime(lifetime))
        crosses = (cross for cross in root.crosses if cross.not_valid_after_utc > now)
        return issued(leaf_certificate(draft, root.signer), crosses)

    def bundle(self) -> str:
        """Return all roots that have not ended, the signing one first."""
        return "".join(as_pem(root.certificate) for root in self._in_use(_now()))

    def revocation_list(self, revoked: Sequence[Revocation]) -> str:
        """Return one list for each root that has not ended.

        Each contains all revoked certificates, whoever issued them: serials are random and long, so none is the serial
        of another root's certificate.
        """
        now = _now()
        return "".join(as_pem(revocation_list(root.signer, revoked, now)) for root in self._in_use(now))

    def _in_use(self, now: datetime) -> list[Root]:
        roots = self.roots()
        signing = signing_root(roots, now)
        return [signing, *(root for root in roots if root is not signing and root.is_valid(now))]

    def roots(self) -> list[Root]:
        """Return all roots, the newest first.

        Raises:
            NoAuthority: there is none.
            AuthorityUnavailable: a file is invalid or accessible to other users.
        """
        try:
            check_private_directory(self.directory)
            found = sorted(self.directory.glob(_PATTERN), reverse=True)
            roots = [_parsed(path, read_private(path)) for path in found]
        except FileNotFoundError:
            roots = []
        except OSError as error:
            raise AuthorityUnavailable(f"CA: {error}") from None
        if not roots:
            raise NoAuthority(f"CA: there is none in {self.directory}; run 'ntppool-monitor ca init'")
        return roots

    def create(self, lifetime: timedelta = ROOT_LIFETIME) -> Root:
        """Create the directory and the first root.

        Raises:
            AlreadyThere: there is a CA.
            AuthorityUnavailable: the files cannot be written.
        """
        return self._add(1, [], lifetime, timedelta(0))

    def renew(self, lifetime: timedelta = ROOT_LIFETIME, *, notice: timedelta = NOTICE) -> Root:
        """Add a root with a new key, which signs after ``notice``, or when no other root is valid.

        Raises:
            AlreadyThere: another process has added one at this moment.
            AuthorityUnavailable: there is no CA, or its files cannot be read or written.
        """
        former = self.roots()
        return self._add(former[0].number + 1, former, lifetime, notice)

    def _add(self, number: int, former: Sequence[Root], lifetime: timedelta, notice: timedelta) -> Root:
        root = _make_root(number, former, notice, f"NTP Pool Monitor CA {self._env} {secrets.token_hex(4)}", lifetime)
        path = self.directory / _FILES.format(number)
        try:
            make_private_directory(self.directory)
            check_private_directory(self.directory)
            write_new(path, _content(root))
        except FileExistsError:
            raise AlreadyThere(f"CA: {path} exists already") from None
        except OSError as error:
            raise AuthorityUnavailable(f"CA: {error}") from None
        return root


def signing_root(roots: Sequence[Root], now: datetime) -> Root:
    """Return the newest valid root that signs by now, or else the newest valid one.

    Args:
        roots: newest first, at least one.

    Raises:
        AuthorityUnavailable: none is valid.
    """
    valid = [root for root in roots if root.is_valid(now)]
    if not valid:
        begin, end = roots[0].certificate.not_valid_before_utc, roots[0].certificate.not_valid_after_utc
        raise AuthorityUnavailable(
            f"CA: its newest root is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC only; "
            "run 'ntppool-monitor ca renew', or set this machine's clock"
        )
    return next((root for root in valid if root.signs_from <= now), valid[0])


def _make_root(number: int, former: Sequence[Root], notice: timedelta, name: str, lifetime: timedelta) -> Root:
    now, key = _now(), ec.generate_private_key(ec.SECP384R1())
    certificate = root_certificate(name, key, now, lifetime)
    crosses: tuple[x509.Certificate, ...] = ()
    if latest := next((one for one in former if one.is_valid(now)), None):
        # One path from the newest root to the oldest: OpenSSL would try only the first of several for the same root.
        crosses = (cross_certificate(certificate, latest.signer), *latest.crosses)
    return Root(number, now + notice, Signer(certificate, key), crosses)


def _content(root: Root) -> bytes:
    key = root.signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificates = "".join(map(as_pem, (root.certificate, *root.crosses))).encode()
    return f"Signs-From: {root.signs_from.isoformat()}\n".encode() + key + certificates


def _parsed(path: Path, content: bytes) -> Root:
    try:
        signs_from = _signs_from(content)
        key = load_pem_private_key(content, password=None)
        certificate, *crosses = x509.load_pem_x509_certificates(content)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        # The cause may quote the key.
        raise AuthorityUnavailable(
            f"CA: {path} is not a file of this CA: a time, a private key and its certificates"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityUnavailable(f"CA: {path}: its key is not that of its first certificate")
    return Root(int(path.stem.removeprefix("root-")), signs_from, Signer(certificate, key), tuple(crosses))


def _signs_from(content: bytes) -> datetime:
    match = _SIGNS_FROM.match(content)
    if match is None:
        raise ValueError("no time of the first signature")
    moment = datetime.fromisoformat(match[1].decode())
    if moment.tzinfo is None:
        raise ValueError("the time of the first signature has no zone")
    return moment


def _now() -> datetime:
    return datetime.now(UTC)

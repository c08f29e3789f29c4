"""Define the contents of certificates and revocation lists, without files, clocks or networks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from auth.ca.authority import CLOCK_MARGIN, LIST_LIFETIME, IssuedCertificate, Revocation, backdating
from auth.ca.hosts import common_name

CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Draft:
    """What a certificate shall say; the SAN is ``names``."""

    public_key: ec.EllipticCurvePublicKey
    names: Sequence[x509.GeneralName]
    usages: Sequence[x509.ObjectIdentifier]
    now: datetime
    lifetime: timedelta


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """A root certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def leaf_certificate(draft: Draft, signer: Signer) -> x509.Certificate:
    """Sign a certificate for a monitor or a server. It ends with its root at the latest."""
    root = signer.certificate
    builder = _draft_builder(
        subject=_subject(common_name(draft.names)),
        public_key=draft.public_key,
        begin=max(draft.now - backdating(draft.lifetime), root.not_valid_before_utc),
        end=min(draft.now + draft.lifetime, root.not_valid_after_utc),
    )
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(draft.usages)), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(draft.names)), critical=False)
    )
    return _signed(builder, root.subject, signer.key)


def root_certificate(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Sign a root with its own key. It may sign later roots, whose number is not limited."""
    subject = _subject(name)
    builder = _draft_builder(subject, key.public_key(), now - CLOCK_MARGIN, now + lifetime)
    return _signed(_as_ca(builder), subject, key)


def cross_certificate(root: x509.Certificate, former: Signer) -> x509.Certificate:
    """Sign the key of a new root with a former one, so that those who only know the former one accept it, too.

    The cross-certificate ends when the first of both ends.
    """
    builder = _draft_builder(
        subject=root.subject,
        public_key=_ec_key(root),
        begin=max(root.not_valid_before_utc, former.certificate.not_valid_before_utc),
        end=min(root.not_valid_after_utc, former.certificate.not_valid_after_utc),
    )
    return _signed(_as_ca(builder), former.certificate.subject, former.key)


def revocation_list(signer: Signer, revoked: Iterable[Revocation], now: datetime) -> x509.CertificateRevocationList:
    """Sign a revocation list. Its number grows with ``now``, to the microsecond."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(now - CLOCK_MARGIN)
        .next_update(now + LIST_LIFETIME)
        .add_extension(x509.CRLNumber(round(now.timestamp() * 1_000_000)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16)).revocation_date(one.revoked_on)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(signer.key, hashes.SHA384())


def issued(certificate: x509.Certificate, others: Iterable[x509.Certificate]) -> IssuedCertificate:
    """Return the certificate with its chain."""
    return IssuedCertificate(
        serial=serial_text(certificate.serial_number),
        chain=as_pem(certificate) + "".join(map(as_pem, others)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def serial_text(serial: int) -> str:
    """Return a serial number as the ledger has it."""
    return format(serial, "x")


def as_pem(what: x509.Certificate | x509.CertificateRevocationList) -> str:
    """Return a certificate or a revocation list as PEM."""
    return what.public_bytes(Encoding.PEM).decode()


def _draft_builder(
    subject: x509.Name, public_key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_ca(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).add_extension(
        _key_usage(certificates=True), critical=True
    )


def _signed(builder: x509.CertificateBuilder, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.issuer_name(issuer).add_extension(identifier, critical=False).sign(key, hashes.SHA384())


def _ec_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("the root's key is not an EC key")
    return key


def _subject(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_usage(*, digital_signature: bool = False, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""Read times and name of a certificate from its DER (RFC 5280, section 4.1), without an X.509 library."""

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_DNS_NAME: Final = 0x82

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateError(ValueError):
    """The file does not contain a valid certificate."""


def valid_until(path: Path) -> datetime:
    """Return when the first certificate of a PEM file expires.

    Raises:
        CertificateError: the file has none, or cannot be read.
    """
    return validity(path)[1]


def validity(path: Path) -> tuple[datetime, datetime]:
    """Return from when and until when the first certificate of a PEM file is valid.

    Raises:
        CertificateError: the file has none, or cannot be read.
    """
    try:
        return _times(_first(path.read_text(encoding="ascii")))
    except (OSError, ValueError, IndexError) as error:
        raise CertificateError(f"{path}: {error}") from error


def is_for(pem: str, name: str) -> bool:
    """Return whether the first certificate is for this host name.

    It is ours, so it is enough to find the name as it is encoded in the list of alternative names.
    """
    try:
        der = _first(pem)
    except ValueError:
        return False
    length = bytes((len(name),)) if len(name) < 128 else bytes((0x81, len(name)))  # DER; a name has 253 at most
    return bytes((_DNS_NAME,)) + length + name.encode("ascii") in der


def _first(pem: str) -> bytes:
    match = _PEM.search(pem)
    if match is None:
        raise CertificateError("holds no certificate")
    return ssl.PEM_cert_to_DER_cert(match[0])


def _times(der: bytes) -> tuple[datetime, datetime]:
    certificate = _expect(der, _SEQUENCE)[0]
    fields = _expect(certificate, _SEQUENCE)[0]
    if fields[0] == _VERSION:
        fields = _element(fields)[2]
    for _ in ("serial number", "signature algorithm", "issuer"):
        fields = _element(fields)[2]
    times = _expect(fields, _SEQUENCE)[0]
    kind, text, rest = _element(times)
    return _time(kind, text), _time(*_element(rest)[:2])


def _time(kind: int, text: bytes) -> datetime:
    if kind not in (_UTC_TIME, _GENERALIZED_TIME):
        raise CertificateError("has no expiry time")
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Split off the first DER element: return its tag, its content, and the remaining bytes."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise CertificateError("is truncated")
    return data[0], data[start : start + length], data[start + length :]


def _expect(data: bytes, tag: int) -> tuple[bytes, bytes]:
    found, content, rest = _element(data)
    if found != tag:
        raise CertificateError("is not an X.509 certificate")
    return content, rest

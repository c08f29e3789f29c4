"""Read certificate signing requests (CSR, PKCS #10) from the internet, and make them for keys of our own.

Of a request, only the public key counts, and only if the request is signed with the private key (proof of possession).
Its names, extensions and attributes are ignored.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

MAX_REQUEST_BYTES: Final = 8192
"""Maximum size of a request as PEM; one for P-256 with a long name has less than 1 KiB."""

_PEM: Final = re.compile(
    r"-----BEGIN (?P<label>(?:NEW )?CERTIFICATE REQUEST)-----\r?\n[A-Za-z0-9+/=\r\n]+-----END (?P=label)-----"
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class InvalidRequest(ValueError):
    """The signing request is refused; the message names the requirement and quotes nothing of the request."""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A request whose signature has been checked; ``digest`` is the SHA-256 of its DER form, hexadecimal."""

    pem: str
    public_key: ec.EllipticCurvePublicKey
    digest: str


def parse_request(pem: str) -> SigningRequest:
    """Return the signing request in ``pem``, which must be one PEM block.

    Raises:
        InvalidRequest: it is too large or malformed, its key is not on P-256, or it is not signed with that key.
    """
    if len(pem) > MAX_REQUEST_BYTES:
        raise InvalidRequest(f"signing request: must have at most {MAX_REQUEST_BYTES} bytes")
    if not _PEM.fullmatch(pem.strip()):
        raise InvalidRequest("signing request: must be one PEM block 'CERTIFICATE REQUEST'")
    try:
        return _checked(x509.load_pem_x509_csr(pem.strip().encode("ascii")))
    except InvalidRequest:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion):
        # The cause may quote the request.
        raise InvalidRequest("signing request: is not a valid PKCS #10 request for an EC key on P-256") from None


def _checked(request: x509.CertificateSigningRequest) -> SigningRequest:
    # The key first: verifying a signature of an arbitrary kind could take long.
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequest("signing request: its key must be an EC key on the curve P-256")
    if not isinstance(request.signature_hash_algorithm, _HASHES):
        raise InvalidRequest("signing request: must be signed with SHA-256, SHA-384 or SHA-512")
    if not request.is_signature_valid:
        raise InvalidRequest("signing request: its signature does not match its key")
    der = request.public_bytes(Encoding.DER)
    return SigningRequest(request.public_bytes(Encoding.PEM).decode(), key, hashlib.sha256(der).hexdigest())


@dataclass(frozen=True, slots=True, repr=False)
class NewKey:
    """A new private key on P-256, as PEM (PKCS #8), and a signing request for it."""

    key: str
    request: SigningRequest

    def __repr__(self) -> str:
        return f"NewKey({self.request.digest})"


def new_key() -> NewKey:
    """Generate a key for a certificate whose holder has none."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return NewKey(pem, _checked(request))

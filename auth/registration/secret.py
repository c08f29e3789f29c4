"""Handle the Registration-ID, the secret of a registration, which only its host has.

The ledger holds its hash. No pepper is involved, so that a pepper may be rotated while registrations are open; the 80
random bits of a ULID are too many to guess one from its hash. The API key is repeated for some minutes, so it is stored
for this time, encrypted under a key derived from the Registration-ID and the pepper: neither a copy of the ledger nor
the settings suffice to read it. Pure.
"""

import hashlib
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from auth.api_keys import KeyText, Pepper, Peppers, parse_key

_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True, repr=False)
class RegistrationId:
    """A well-formed Registration-ID, which must appear in no log and no page."""

    clear: str

    def __repr__(self) -> str:
        return "RegistrationId(...)"

    __str__ = __repr__

    @property
    def hashed(self) -> str:
        """The text for ``monitor_registrations.request_token``."""
        return "sha256:" + hashlib.sha256(b"ntppool-monitor registration " + self.clear.encode()).hexdigest()


def parse_registration_id(text: str) -> RegistrationId | None:
    """Return the id in the header ``Registration-ID``, a ULID in either case; ``None`` if it is none."""
    upper = text.upper()
    return RegistrationId(upper) if text.isascii() and _ULID.fullmatch(upper) else None


def new_verification_token() -> str:
    """Return the last part of the confirm page's path: 32 characters with 128 random bits, alike in either case."""
    return secrets.token_hex(16)


def seal(key: KeyText, registration: RegistrationId, verification_token: str, peppers: Peppers) -> str:
    """Encrypt a key so that only a request with the Registration-ID can reveal it."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    cipher = AESGCM(_sealing_key(registration, verification_token, peppers.current))
    return urlsafe_b64encode(nonce + cipher.encrypt(nonce, key.clear.encode(), None)).decode()


def unseal(sealed: str, registration: RegistrationId, verification_token: str, peppers: Peppers) -> KeyText | None:
    """Return the key in ``sealed``; ``None`` if it was sealed for another registration, or its pepper is unknown."""
    try:
        raw = urlsafe_b64decode(sealed.encode())
    except ValueError:
        return None
    for pepper in peppers:
        cipher = AESGCM(_sealing_key(registration, verification_token, pepper))
        try:
            return parse_key(cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None).decode())
        except (InvalidTag, ValueError):
            continue
    return None


def _sealing_key(registration: RegistrationId, verification_token: str, pepper: Pepper) -> bytes:
    derive = HKDF(
        algorithm=SHA256(),
        length=32,
        salt=verification_token.encode(),
        info=b"ntppool-monitor: API key of a registration",
    )
    return derive.derive(registration.clear.encode() + b"\0" + pepper.material)

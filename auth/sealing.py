"""Encrypt a secret of a host so that only a request that shows another secret of the host can reveal it.

The key of the encryption is derived from that other secret, which the ledger holds only as a hash, and from the pepper,
which is no part of the ledger. So neither a copy of the ledger nor the settings suffice to read it. Pure.
"""

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from auth.api_keys import Pepper, Peppers

_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True, repr=False)
class Lock:
    """What a text is sealed with: the secret that opens it, and public texts that it is bound to."""

    secret: str
    salt: str
    """Differs between the texts that the same secret opens."""
    purpose: bytes

    def __repr__(self) -> str:
        return "Lock(...)"

    def cipher(self, pepper: Pepper) -> AESGCM:
        """Return the cipher under a pepper."""
        derive = HKDF(algorithm=SHA256(), length=32, salt=self.salt.encode(), info=self.purpose)
        return AESGCM(derive.derive(self.secret.encode() + b"\0" + pepper.material))


def seal(text: str, lock: Lock, peppers: Peppers) -> str:
    """Encrypt ``text`` under the current pepper."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return urlsafe_b64encode(nonce + lock.cipher(peppers.current).encrypt(nonce, text.encode(), None)).decode()


def unseal(sealed: str, lock: Lock, peppers: Peppers) -> str | None:
    """Return the text in ``sealed``; ``None`` if it was sealed with another lock, or its pepper is unknown."""
    try:
        raw = urlsafe_b64decode(sealed.encode())
    except ValueError:
        return None
    for pepper in peppers:
        try:
            return lock.cipher(pepper).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None).decode()
        except (InvalidTag, ValueError):
            continue
    return None

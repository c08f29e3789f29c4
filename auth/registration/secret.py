"""Handle the Registration-ID, the secret of a registration, which only its host has.

The ledger holds its hash. No pepper is involved, so that a pepper may be rotated while registrations are open; the 80
random bits of a ULID are too many to guess one from its hash. The API key is repeated for some minutes, so it is stored
for this time, encrypted under a key derived from the Registration-ID and the pepper: neither a copy of the ledger nor
the settings suffice to read it. Pure.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from auth import sealing
from auth.api_keys import KeyText, Peppers, parse_key

_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)


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
    return sealing.seal(key.clear, _lock(registration, verification_token), peppers)


def unseal(sealed: str, registration: RegistrationId, verification_token: str, peppers: Peppers) -> KeyText | None:
    """Return the key in ``sealed``; ``None`` if it was sealed for another registration, or its pepper is unknown."""
    text = sealing.unseal(sealed, _lock(registration, verification_token), peppers)
    return None if text is None else parse_key(text)


def _lock(registration: RegistrationId, verification_token: str) -> sealing.Lock:
    return sealing.Lock(registration.clear, verification_token, b"ntppool-monitor: API key of a registration")

"""Generate API keys and check them, without storing any.

The ledger holds the first characters of a key, by which its row is found, and a keyed hash. The hash's key, the
*pepper*, is no part of the ledger, so a copy of the ledger proves nothing about any key. Pure; SQL is in
:mod:`auth.api_key_store`.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

KEY_BYTES: Final = 32
LOOKUP_LENGTH: Final = 16
"""Characters of a key that the ledger holds in clear: the prefix and 44 of its 256 bits."""

FORMER_KEY_LIFE: Final = timedelta(minutes=10)
"""Time for which a replaced key remains valid."""

MIN_PEPPER_BYTES: Final = 32

_KEY: Final = re.compile(r"(?P<prefix>ntpm_|ntpa_)[0-9a-f]{64}")
_HASH: Final = re.compile(r"hs256:(?P<pepper>[0-9a-f]{8}):(?P<digest>[0-9a-f]{64})")
_NAMED: Final = re.compile(r"hs256:(?P<pepper>[0-9a-f]{8}):")
NAMED: Final = 15
"""Characters at the start of a hash that name its pepper."""


class InvalidPepper(ValueError):
    """The pepper is too short. The message quotes nothing of it."""


class Audience(StrEnum):
    """What a key identifies; the value is in ``api_keys.audience``."""

    MONITOR = "monitor"
    """A host, with its monitors."""
    ACCOUNT = "account"
    """An account, for the pages of its owner."""


_PREFIXES: Final = {Audience.MONITOR: "ntpm_", Audience.ACCOUNT: "ntpa_"}


@dataclass(frozen=True, slots=True, repr=False)
class KeyText:
    """The text of a well-formed key, which is a secret: :attr:`clear` is for its owner alone."""

    clear: str

    def __repr__(self) -> str:
        return f"KeyText({self.clear[:5]}...)"

    __str__ = __repr__

    @property
    def lookup(self) -> str:
        """The part by which the ledger finds its row; too short to guess the rest."""
        return self.clear[:LOOKUP_LENGTH]

    @property
    def audience(self) -> Audience:
        """What the key identifies, by its prefix."""
        return next(audience for audience, prefix in _PREFIXES.items() if self.clear.startswith(prefix))


@dataclass(frozen=True, slots=True, repr=False)
class Pepper:
    """The key of the hashes, derived from a secret of the settings."""

    material: bytes
    name: str
    """Public; every hash contains it, so that a hash tells which pepper it needs."""

    def __repr__(self) -> str:
        return f"Pepper({self.name})"


@dataclass(frozen=True, slots=True)
class Peppers:
    """The pepper of new hashes, and the former ones, with which older hashes are still checked."""

    current: Pepper
    former: tuple[Pepper, ...] = ()

    def __iter__(self) -> Iterator[Pepper]:
        return iter((self.current, *self.former))


def generate(audience: Audience = Audience.MONITOR) -> KeyText:
    """Return a new key with 256 random bits."""
    return KeyText(_PREFIXES[audience] + secrets.token_hex(KEY_BYTES))


def parse_key(text: str) -> KeyText | None:
    """Return the key in ``text``, which may come from anyone; ``None`` if it cannot be one of ours."""
    return KeyText(text) if _KEY.fullmatch(text) else None


def derive_pepper(secret: str) -> Pepper:
    """Derive the pepper from a secret of the settings. Surrounding white space is removed.

    The derivation is the same for every secret, so that a secret may be the pepper's own, or that of tokens.

    Raises:
        InvalidPepper: the secret has less than 32 bytes.
    """
    stripped = secret.strip().encode()
    if len(stripped) < MIN_PEPPER_BYTES:
        raise InvalidPepper(
            f"has {len(stripped)} bytes; needs at least {MIN_PEPPER_BYTES} (create one with: openssl rand -base64 48)"
        )
    material = hmac.digest(stripped, b"ntppool-monitor: pepper of API keys", "sha256")
    return Pepper(material, hmac.new(material, b"name", hashlib.sha256).hexdigest()[:8])


def hash_key(key: KeyText, pepper: Pepper) -> str:
    """Return the text for ``token_hashed``: algorithm, name of the pepper, HMAC-SHA-256 in hexadecimal."""
    return f"hs256:{pepper.name}:{hmac.new(pepper.material, key.clear.encode(), hashlib.sha256).hexdigest()}"


def name_in_hash(start: str) -> str | None:
    """Return the name of the pepper that a hash needs, from its first :data:`NAMED` characters; None if it has none."""
    match = _NAMED.match(start)
    return match["pepper"] if match else None


def matching_pepper(key: KeyText, hashed: str, peppers: Peppers) -> Pepper | None:
    """Return the pepper under which ``hashed`` is the hash of ``key``; ``None`` if it is not.

    Takes the same time for every wrong key.
    """
    match = _HASH.fullmatch(hashed)
    named = match["pepper"] if match else ""
    pepper = next((one for one in peppers if one.name == named), peppers.current)
    equal = hmac.compare_digest(hash_key(key, pepper).encode(), hashed.encode())
    return pepper if equal else None

"""Sign the cookies of people's sessions, and the tokens of their forms.

All state of a session is in its cookie, so any process can continue it, and none has to store it. What the person may
do is not in it: it is read from the ledger for each request (:mod:`api.pages.person`), so a revoked key, a removed user
and logging out end the session at once. Pure.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import msgspec
from itsdangerous import BadSignature, Signer

T = TypeVar("T", bound=msgspec.Struct)

SESSION_LIFE: Final = timedelta(hours=12)
"""Time after the login at which a session ends."""

VISIT_LIFE: Final = timedelta(hours=1)
"""Time for which the forms of someone who has not logged in are valid."""

ATTEMPT_LIFE: Final = timedelta(minutes=10)
"""Time that a person has for logging in at the provider."""

PURPOSE: Final = "sessions of the pages"
"""Of the secret that :meth:`auth.tokens.SigningKey.derive_secret` derives for :class:`Seals`."""

_LONGEST: Final = 3_800
"""Characters; browsers keep no longer cookies."""

_CLOCKS_DIFFER: Final = 60
"""Seconds by which the clocks of two API processes may differ."""


class KeyLogin(msgspec.Struct, frozen=True, tag="key"):
    """The person has shown the key of an account."""

    key_id: int


class UserLogin(msgspec.Struct, frozen=True, tag="user"):
    """The person has logged in at the provider."""

    user_id: int
    issuer: str
    subject: str
    email: str
    """Verified by the provider; empty if it is not."""


class Session(msgspec.Struct, frozen=True):
    """A session; before the login, one that only has a form's token."""

    id: str
    begun: int
    """Seconds since 1970."""
    login: KeyLogin | UserLogin | None = None
    notice: str = ""
    """What the next page says first."""


class Attempt(msgspec.Struct, frozen=True):
    """A login at the provider that has begun in this browser."""

    state: str
    begun: int
    """Seconds since 1970."""
    goto: str
    """Path of the page to show afterwards."""


def new_session(now: datetime, login: KeyLogin | UserLogin | None = None) -> Session:
    """Return a new session: after a login, one that nobody has seen before."""
    return Session(secrets.token_urlsafe(16), int(now.timestamp()), login)


def end_of(session: Session) -> datetime:
    """Return the time from which on no process accepts the cookie of a login's session."""
    return datetime.fromtimestamp(session.begun + _CLOCKS_DIFFER, UTC) + SESSION_LIFE


def new_attempt(now: datetime, goto: str) -> Attempt:
    """Return a new login at the provider."""
    return Attempt(secrets.token_urlsafe(32), int(now.timestamp()), goto)


class Seals:
    """Sign and check sessions, with keys that are derived from one secret.

    Args:
        secret: at least 32 random bytes, the same for all processes of an environment.
    """

    def __init__(self, secret: bytes) -> None:
        self._session = _signer(secret, "session")
        self._attempt = _signer(secret, "attempt")
        self._forms = _derived(secret, "forms")
        self._provider = _derived(secret, "provider")

    def __repr__(self) -> str:
        return "Seals(...)"

    def seal_session(self, session: Session) -> str:
        """Return the text for a cookie."""
        return _seal(self._session, session)

    def open_session(self, text: str, now: datetime) -> Session | None:
        """Return the session in a cookie; ``None`` if it is forged, malformed, or has ended."""
        found = _open(self._session, text, Session)
        if found is None:
            return None
        life = VISIT_LIFE if found.login is None else SESSION_LIFE
        return found if _is_within(found.begun, life, now) else None

    def seal_attempt(self, attempt: Attempt) -> str:
        """Return the text for a cookie."""
        return _seal(self._attempt, attempt)

    def open_attempt(self, text: str, now: datetime) -> Attempt | None:
        """Return the login at the provider in a cookie; ``None`` if it is forged, malformed, or has ended."""
        found = _open(self._attempt, text, Attempt)
        return found if found is not None and _is_within(found.begun, ATTEMPT_LIFE, now) else None

    def form_token(self, session: Session) -> str:
        """Return the token that every form of the session contains."""
        return hmac.digest(self._forms, session.id.encode(), "sha256").hex()

    def is_form_token(self, session: Session, given: str) -> bool:
        """Return whether a form's token is that of the session, in constant time."""
        return hmac.compare_digest(self.form_token(session).encode(), given.encode("utf-8", "replace"))

    def nonce(self, attempt: Attempt) -> str:
        """Return the nonce of a login at the provider, which the cookie does not contain."""
        return self._of_attempt(attempt, "nonce")

    def verifier(self, attempt: Attempt) -> str:
        """Return the verifier of RFC 7636 (PKCE) of a login, which the cookie does not contain."""
        return self._of_attempt(attempt, "verifier")

    def _of_attempt(self, attempt: Attempt, what: str) -> str:
        digest = hmac.digest(self._provider, f"{what} {attempt.state}".encode(), "sha256")
        return urlsafe_b64encode(digest).decode().rstrip("=")


def same_text(one: str, other: str) -> bool:
    """Return whether two secrets are equal, in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _derived(secret: bytes, purpose: str) -> bytes:
    return hmac.digest(secret, purpose.encode(), "sha256")


def _signer(secret: bytes, purpose: str) -> Signer:
    return Signer(_derived(secret, purpose), salt=purpose, key_derivation="hmac", digest_method=hashlib.sha256)


def _seal(signer: Signer, value: msgspec.Struct) -> str:
    return signer.sign(urlsafe_b64encode(msgspec.json.encode(value))).decode()


def _open(signer: Signer, text: str, kind: type[T]) -> T | None:
    if len(text) > _LONGEST or not text.isascii():
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(signer.unsign(text)), type=kind)
    except (BadSignature, ValueError, msgspec.MsgspecError):
        return None


def _is_within(begun: int, life: timedelta, now: datetime) -> bool:
    """Return whether a time is less than ``life`` ago; one in the future was written by a clock that is wrong."""
    age = now.astimezone(UTC).timestamp() - begun
    return -_CLOCKS_DIFFER <= age < life.total_seconds()

"""Log people in at a provider of OpenID Connect: authorization code flow with PKCE, state and nonce.

The provider is found by discovery. It is asked over HTTPS, or over loopback; no redirect is followed. Its metadata and
keys are kept for an hour, and its keys are fetched again when it signs with one that is new.
"""

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
from authlib.oauth2.client import OAuth2Client  # type: ignore[import-untyped]

from api.pages.id_token import Expected, InvalidIdToken, UnknownSigningKey, check_id_token
from auth.users import LONGEST, Identity
from runtime.loopback import is_loopback

SCOPE: Final = "openid email"
_KEEP_SECONDS: Final = 3600.0
_NEW_KEYS_SECONDS: Final = 30.0
"""Minimum seconds between two downloads of the keys."""
_WITHIN_SECONDS: Final = 4.0
"""For each of up to four questions, so that a login ends while its browser waits."""
_LARGEST: Final = 262_144
"""Maximum bytes of an answer."""


class ProviderError(Exception):
    """The provider cannot be reached, or answers nothing usable. The message contains no secret."""


class LoginRefused(Exception):
    """The provider's answer does not prove who has logged in. The message contains no secret."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Something from the provider, and when it was fetched (monotonic seconds)."""

    value: Mapping[str, Any]
    at: float


@dataclass(slots=True)
class _Cache:
    metadata: _Kept | None = None
    keys: _Kept | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider, and our registration there. Thread-safe."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    now: Callable[[], datetime] = field(repr=False)
    _cache: _Cache = field(default_factory=_Cache, repr=False)

    @property
    def host(self) -> str:
        """The provider's host, by which people recognise it."""
        return urlsplit(self.issuer).hostname or self.issuer

    def authorization_url(self, redirect_uri: str, *, state: str, nonce: str, verifier: str) -> str:
        """Return the address at the provider to which the browser goes.

        Raises:
            ProviderError: its metadata cannot be had.
        """
        endpoint = _endpoint(self._metadata(), "authorization_endpoint")
        client = self._client(redirect_uri)
        url, _ = client.create_authorization_url(endpoint, state=state, nonce=nonce, code_verifier=verifier)
        return str(url)

    def identify(self, code: str, redirect_uri: str, *, nonce: str, verifier: str) -> Identity:
        """Return who has logged in, with their e-mail address if the provider has verified it.

        Raises:
            LoginRefused: the code or the token is invalid.
            ProviderError: the provider cannot be reached.
        """
        metadata = self._metadata()
        token = self._exchange(metadata, code, redirect_uri, verifier)
        access_token = token.get("access_token")
        if not isinstance(token.get("id_token"), str) or not isinstance(access_token, str):
            raise LoginRefused("the provider issued no ID token")
        claims = self._claims(token["id_token"], Expected(self.issuer, self.client_id, nonce, access_token))
        if "email" not in claims and "userinfo_endpoint" in metadata:
            claims = {**claims, **self._user_info(metadata, access_token, claims["sub"])}
        return Identity(self.issuer, claims["sub"], verified_address(claims))

    def _exchange(self, metadata: Mapping[str, Any], code: str, redirect_uri: str, verifier: str) -> Mapping[str, Any]:
        url = _endpoint(metadata, "token_endpoint")
        credentials: dict[str, Any] = {"auth": httpx.BasicAuth(self.client_id, self.client_secret)}
        if "client_secret_basic" not in metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
            credentials = {"auth": httpx.Auth(), "client_id": self.client_id, "client_secret": self.client_secret}
        with _asking("token"), httpx.Client(**_transport(url)) as session:
            client = self._client(redirect_uri, session)
            try:
                answer = client.fetch_token(
                    url, code=code, code_verifier=verifier, grant_type="authorization_code", **credentials
                )
            except AuthlibBaseError as error:
                raise LoginRefused(f"the provider refuses the code ({error.error})") from None
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    raise LoginRefused(f"the provider refuses the code (HTTP {error.response.status_code})") from None
                raise
        if not isinstance(answer, Mapping):
            raise ProviderError("token: its answer is not a JSON object")
        return answer

    def _claims(self, id_token: str, expected: Expected) -> dict[str, Any]:
        try:
            try:
                return check_id_token(id_token, self._keys(), expected, self.now())
            except UnknownSigningKey:
                return check_id_token(id_token, self._keys(again=True), expected, self.now())
        except InvalidIdToken as error:
            raise LoginRefused(f"the provider's ID token is refused: {error}") from None

    def _user_info(self, metadata: Mapping[str, Any], access_token: str, subject: str) -> Mapping[str, Any]:
        """Return e-mail address and its verification from the provider, which need not be in the ID token."""
        found = self._get(_endpoint(metadata, "userinfo_endpoint"), {"Authorization": f"Bearer {access_token}"})
        if found.get("sub") != subject:
            raise LoginRefused("the provider's user info is about someone else")
        return {name: found[name] for name in ("email", "email_verified") if name in found}

    def _metadata(self) -> Mapping[str, Any]:
        with self._exclusively():
            if self._cache.metadata is None or time.monotonic() - self._cache.metadata.at >= _KEEP_SECONDS:
                found = self._get(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
                if found.get("issuer") != self.issuer:
                    raise ProviderError("its metadata are those of another issuer; OIDC_ISSUER must be equal")
                self._cache.metadata = _Kept(found, time.monotonic())
            return self._cache.metadata.value

    def _keys(self, *, again: bool = False) -> Mapping[str, Any]:
        url = _endpoint(self._metadata(), "jwks_uri")
        with self._exclusively():
            keep = _NEW_KEYS_SECONDS if again else _KEEP_SECONDS
            if self._cache.keys is None or time.monotonic() - self._cache.keys.at >= keep:
                self._cache.keys = _Kept(self._get(url), time.monotonic())
            return self._cache.keys.value

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Let one thread fetch what others wait for; if the provider is slow, they do not wait one after the other."""
        if not self._cache.lock.acquire(timeout=_WITHIN_SECONDS):
            raise ProviderError("it does not answer in time")
        try:
            yield
        finally:
            self._cache.lock.release()

    def _get(self, url: str, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        path = urlsplit(url).path
        with _asking(path), httpx.Client(**_transport(url)) as client:
            answer = client.get(url, headers=dict(headers or {}))
            answer.raise_for_status()
            if len(answer.content) > _LARGEST:
                raise ProviderError(f"{path}: its answer is too long")
            found = answer.json()
        if not isinstance(found, Mapping):
            raise ProviderError(f"{path}: its answer is not a JSON object")
        return found

    def _client(self, redirect_uri: str, session: httpx.Client | None = None) -> Any:
        """Return the library's client, which uses our session for HTTP."""
        return OAuth2Client(
            session,
            client_id=self.client_id,
            client_secret=self.client_secret,
            scope=SCOPE,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )


def verified_address(claims: Mapping[str, Any]) -> str | None:
    """Return the e-mail address in ``claims``, if the provider states that it has verified it."""
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str):
        return None
    plain = email.isprintable() and " " not in email and 0 < len(email) <= LONGEST
    return email if plain and email.count("@") == 1 else None


def _endpoint(metadata: Mapping[str, Any], name: str) -> str:
    """Return an address from the metadata.

    Raises:
        ProviderError: it is missing, or could be read by others on the network.
    """
    url = metadata.get(name)
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        scheme, host = parts.scheme, parts.hostname
    except ValueError:
        scheme, host = "", None
    if not isinstance(url, str) or not host:
        raise ProviderError(f"its metadata have no {name}")
    if scheme != "https" and not (scheme == "http" and is_loopback(host)):
        raise ProviderError(f"its {name} is not an https address")
    return url


def _transport(url: str) -> dict[str, Any]:
    return {
        "timeout": _WITHIN_SECONDS,
        "follow_redirects": False,
        # A proxy would see what is sent in clear text.
        "trust_env": url.startswith("https:"),
        # The system's roots, which operators can change, instead of those of a Python package.
        "verify": ssl.create_default_context(),
    }


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Report failures to reach the provider, without details that may contain what was sent."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise ProviderError(f"{what}: HTTP {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProviderError(f"{what}: {type(error).__name__}") from None
    except (ValueError, TypeError, LookupError, RecursionError):
        raise ProviderError(f"{what}: its answer is malformed") from None

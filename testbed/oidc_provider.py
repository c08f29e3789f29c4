"""A provider of OpenID Connect for tests: discovery, authorization with PKCE, token, user info, and keys.

It is strict about every request, and can be told to answer wrongly. Who sits at the browser is already logged in there.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from testbed.ports import ADDRESS

CLIENT_ID: Final = "ntppool-pages"
CLIENT_SECRET: Final = "the secret of the pages at their provider"  # noqa: S105  # of no other provider

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def new_key(algorithm: str) -> Key:
    """Return a new key for ``RS256`` or ``ES256``."""
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_jwk(key: Key, name: str, algorithm: str) -> dict[str, Any]:
    """Return the public half of a key, as in a key set."""
    kind: Any = jwt.algorithms.ECAlgorithm if algorithm == "ES256" else jwt.algorithms.RSAAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": name, "use": "sig", "alg": algorithm}


@dataclass(frozen=True, slots=True)
class _Granted:
    """What a code stands for."""

    redirect_uri: str
    nonce: str
    challenge: str
    person: dict[str, Any]


@dataclass
class OidcProvider:
    """A provider at a loopback address, with one registered client."""

    algorithm: str = "RS256"
    person: dict[str, Any] = field(
        default_factory=lambda: {"sub": "248289761001", "email": "anna@example.org", "email_verified": True}
    )
    """Claims about who is logged in."""
    email_in_token: bool = True
    """Whether the ID token has the e-mail address; the user info always has it."""
    denies: bool = False
    """The person does not agree."""
    alter_claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    alter_token: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    signs_with: Key | None = None
    """Another key than that of the key set."""
    auth_methods: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Members of the metadata to replace."""
    user_info: dict[str, Any] = field(default_factory=dict)
    """Members of the user info to replace."""
    broken: set[str] = field(default_factory=set)
    """Paths that answer with 500."""
    asked: list[str] = field(default_factory=list)
    """Paths of the requests."""
    refused: list[str] = field(default_factory=list)
    """Why requests were refused."""
    url: str = ""
    codes: dict[str, _Granted] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key_name = ""
        self.replace_key()

    def replace_key(self) -> None:
        """Sign with a new key from now on."""
        self.key, self.key_name = new_key(self.algorithm), f"key-{secrets.token_hex(4)}"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of our client."""
        return {"oidc_issuer": self.url, "oidc_client_id": CLIENT_ID, "oidc_client_secret": CLIENT_SECRET}

    # ---- answers ---------------------------------------------------------------------------------------------------

    def discovery(self) -> dict[str, Any]:
        """Answer ``/.well-known/openid-configuration``."""
        found = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.algorithm],
            "code_challenge_methods_supported": ["S256"],
        }
        if self.auth_methods is not None:
            found["token_endpoint_auth_methods_supported"] = self.auth_methods
        return {name: value for name, value in {**found, **self.metadata}.items() if value is not None}

    def authorize(self, query: dict[str, str]) -> str | None:
        """Return where the browser goes next; ``None`` if the request is wrong."""
        wanted = {"response_type": "code", "client_id": CLIENT_ID, "code_challenge_method": "S256"}
        wrong = [name for name, value in wanted.items() if query.get(name) != value]
        wrong += [
            name for name in ("state", "nonce", "code_challenge", "redirect_uri") if len(query.get(name, "")) < 20
        ]
        if wrong or "openid" not in query.get("scope", "").split():
            self.refused.append(f"authorize: {wrong or 'scope'}")
            return None
        answer = {"state": query["state"], "iss": self.url}
        if self.denies:
            return f"{query['redirect_uri']}?{urlencode({'error': 'access_denied', **answer})}"
        code = secrets.token_urlsafe(16)
        self.codes[code] = _Granted(query["redirect_uri"], query["nonce"], query["code_challenge"], dict(self.person))
        return f"{query['redirect_uri']}?{urlencode({'code': code, **answer})}"

    def token(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """Exchange a code; ``None`` if the request is wrong."""
        granted = self.codes.pop(form.get("code", ""), None)  # for one use
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            granted is None
            or not self._is_client(form, authorization)
            or form.get("grant_type") != "authorization_code"
            or form.get("redirect_uri") != granted.redirect_uri
            or challenge != granted.challenge
        ):
            self.refused.append("token")
            return None
        access_token = secrets.token_urlsafe(16)
        self.tokens[access_token] = granted.person
        answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": 300}
        return self.alter_token({**answer, "id_token": self.id_token(granted, access_token)})

    def _is_client(self, form: dict[str, str], authorization: str) -> bool:
        if self.auth_methods == ["client_secret_post"]:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        scheme, _, encoded = authorization.partition(" ")
        if scheme != "Basic":
            return False
        name, _, secret = base64.b64decode(encoded).decode().partition(":")
        return name == CLIENT_ID and CLIENT_SECRET in (secret, unquote(secret))

    def id_token(self, granted: _Granted, access_token: str) -> str:
        """Return the ID token of a login."""
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "iat": int(time.time()),
            "exp": int(time.time()) + 300,
            "nonce": granted.nonce,
            "at_hash": base64.urlsafe_b64encode(half).decode().rstrip("="),
            **granted.person,
        }
        if not self.email_in_token:
            claims = {name: value for name, value in claims.items() if not name.startswith("email")}
        claims = {name: value for name, value in self.alter_claims(claims).items() if value is not None}
        key = self.signs_with or self.key
        return jwt.encode(claims, key, algorithm=self.algorithm, headers={"kid": self.key_name})

    def keys(self) -> dict[str, Any]:
        """Answer ``/jwks``."""
        return {"keys": [public_jwk(self.key, self.key_name, self.algorithm)]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, provider: OidcProvider) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.provider = provider
        provider.url = f"http://{ADDRESS}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        provider, parts = self.server.provider, urlsplit(self.path)
        provider.asked.append(parts.path)
        if parts.path in provider.broken:
            return self._say(500, {})
        match parts.path:
            case "/.well-known/openid-configuration":
                return self._say(200, provider.discovery())
            case "/jwks":
                return self._say(200, provider.keys())
            case "/userinfo":
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if token not in provider.tokens:
                    return self._say(401, {"error": "invalid_token"})
                return self._say(200, {**provider.tokens[token], **provider.user_info})
            case "/authorize":
                target = provider.authorize({name: values[0] for name, values in parse_qs(parts.query).items()})
                if target is None:
                    return self._say(400, {"error": "invalid_request"})
                self.send_response_only(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                return self.end_headers()
        return self._say(404, {})

    def do_POST(self) -> None:
        provider = self.server.provider
        provider.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        if self.path in provider.broken:
            return self._say(500, {})
        answer = provider.token(form, self.headers.get("Authorization", ""))
        return self._say(400, {"error": "invalid_grant"}) if answer is None else self._say(200, answer)

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded instead."""


@contextmanager
def oidc_provider(**settings: Any) -> Iterator[OidcProvider]:
    """Yield a running provider."""
    provider = OidcProvider(**settings)
    server = _Server(provider)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

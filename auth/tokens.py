"""Sign the tokens with which clients log in to the broker; each contains the client's permissions and its expiry time.

A token carries its own permissions, so the broker needs only the key, and a change of the permissions needs no change
of the broker. The same token works on the pool's Mosquitto (claims ``subs`` and ``publ``, checked by the plugin in
broker-config) and on a clustered EMQX (claim ``acl``).
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from schema.names import Environment, InvalidName, check_monitor_name
from schema.topics import ANY, Topics, shared

MIN_SECRET_BYTES: Final = 48
"""Minimum size of an HMAC secret: RFC 7518, 3.2 requires at least the size of the hash, here 384 bits."""

NOT_BEFORE_MARGIN: Final = timedelta(seconds=30)
"""Maximum time by which the broker's clock may be behind ours."""

MAX_NAME_BYTES: Final = 253
"""Maximum size of a subject, that of a monitor's name, which is a domain name."""

# The broker's plugin strips the same characters, and no others, from its key file.
_WHITE_SPACE: Final = " \t\r\n\v\f"
_IN_NO_NAME: Final = frozenset("+#/")


class InvalidKey(ValueError):
    """The key cannot sign. The message names the requirement and quotes nothing of the key."""


class Role(StrEnum):
    """The role of a client, which determines the permissions of its token."""

    MONITOR = "monitor"
    SERVER = "server"
    OBSERVER = "observer"
    ADMIN = "admin"
    EXPORTER = "exporter"


@dataclass(frozen=True, slots=True)
class Permissions:
    """The permissions of a role: topic filters, and the maximum lifetime of its tokens.

    ``retain`` is the part of ``publish`` whose messages may be retained. The pool's Mosquitto derives it from the role
    (``rules_of`` in broker-config/jwt-auth/token.c).
    """

    lifetime: timedelta
    subscribe: tuple[str, ...]
    publish: tuple[str, ...]
    retain: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A key that signs tokens, bound to its one algorithm."""

    algorithm: Literal["HS384", "ES384"]
    _material: bytes | ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm})"

    def verification_text(self) -> str:
        """Return the key that verifies our tokens: the HMAC secret itself, or the public key as PEM."""
        if isinstance(self._material, bytes):
            return self._material.decode()
        public = self._material.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def encode(self, claims: dict[str, Any]) -> str:
        """Return ``claims`` as a signed JWT."""
        return jwt.encode(claims, self._material, algorithm=self.algorithm)

    def derive_secret(self, purpose: str) -> bytes:
        """Return 32 bytes that only holders of the key can compute, other ones for each purpose."""
        if isinstance(self._material, bytes):
            material = self._material
        else:
            material = self._material.private_numbers().private_value.to_bytes(48, "big")
        return hmac.digest(material, f"ntppool-monitor: {purpose}".encode(), "sha256")


def load_key(text: str) -> SigningKey:
    """Load a key: a PEM private key on P-384 (ES384), or an HMAC secret (HS384). Surrounding white space is removed.

    Raises:
        InvalidKey: it is neither.
    """
    text = text.strip(_WHITE_SPACE)
    if text.startswith("-----BEGIN"):
        return SigningKey("ES384", _private_key(text))
    secret = text.encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidKey(
            f"key for tokens: has {len(secret)} bytes; an HMAC secret needs at least {MIN_SECRET_BYTES} "
            "(create one with: openssl rand -base64 48)"
        )
    if b"\0" in secret:
        raise InvalidKey("key for tokens: contains a NUL character; an HMAC secret must be text")
    return SigningKey("HS384", secret)


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    make_one = "create one with: openssl ecparam -name secp384r1 -genkey -noout"
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause may quote the key; TypeError means that the key has a passphrase.
        raise InvalidKey(f"key for tokens: is not an unencrypted PEM private key ({make_one})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidKey(f"key for tokens: is not an EC key; ES384 needs one on the curve P-384 ({make_one})")
    if not isinstance(key.curve, ec.SECP384R1):
        raise InvalidKey(f"key for tokens: is on the curve {key.curve.name}; ES384 needs P-384 ({make_one})")
    return key


def permissions(role: Role, name: str, env: Environment) -> Permissions:
    """Return the permissions of ``name`` in ``env`` as a ``role``."""
    topics = Topics(env)
    everything = (topics.everything,)
    match role:
        case Role.MONITOR:
            says = _monitor_publishes(topics, name)
            return Permissions(timedelta(hours=6), _monitor_subscribes(topics, name), says, (topics.status(name),))
        case Role.SERVER:
            hears = (*everything, shared(ANY, topics.everything))
            return Permissions(timedelta(hours=6), hears, everything, everything)
        case Role.OBSERVER:
            return Permissions(timedelta(hours=12), everything, (), ())
        case Role.ADMIN:
            return Permissions(timedelta(minutes=5), everything, everything, everything)
        case Role.EXPORTER:
            return Permissions(timedelta(days=3 * 365), ("$SYS/#",), (), ())


def _monitor_subscribes(topics: Topics, name: str) -> tuple[str, ...]:
    return (
        topics.request(name, ANY),
        topics.config(name),
        topics.assignments(name),
        topics.acks(name, ANY),
        topics.monitor_control(name),
    )


def _monitor_publishes(topics: Topics, name: str) -> tuple[str, ...]:
    return (
        topics.status(name),
        topics.api_test(name),
        topics.results(name, ANY),
        topics.data(name, ANY),
    )


def check_name(role: Role, name: str, env: Environment) -> str:
    """Check that ``name`` is valid as a user name, a topic level and part of a client id, and return it.

    Raises:
        InvalidName: it is invalid; for the role monitor, it must be the name of a monitor of ``env``.
    """
    if role is Role.MONITOR:
        return check_monitor_name(name, env)
    if not name or not name.isprintable() or _IN_NO_NAME & set(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidName(
            f"name {name[:MAX_NAME_BYTES]!r}: must be 1 to {MAX_NAME_BYTES} printable characters without '+', '#', '/'"
        )
    return name


def sign(
    key: SigningKey,
    role: Role,
    name: str,
    env: Environment,
    *,
    now: datetime | None = None,
    lifetime: timedelta | None = None,
) -> str:
    """Return a new token for ``name``, which is the password at the broker for the user name ``name``.

    Args:
        now: start of its lifetime; default: the current time.
        lifetime: whole seconds, at most the role's lifetime, which is the default.

    Raises:
        InvalidName: ``name`` is invalid for a token.
        ValueError: the lifetime is not positive or longer than the role's, or ``now`` has no time zone.
    """
    return key.encode(claims(role, check_name(role, name, env), env, now or datetime.now(UTC), lifetime))


def claims(role: Role, name: str, env: Environment, now: datetime, lifetime: timedelta | None = None) -> dict[str, Any]:
    """Return the claims of a token. See :func:`sign`, which also checks the name."""
    allowed = permissions(role, name, env)
    lifetime = allowed.lifetime if lifetime is None else lifetime
    if not timedelta(seconds=1) <= lifetime <= allowed.lifetime:
        raise ValueError(f"lifetime {lifetime}: must be 1 s to {allowed.lifetime} for the role {role}")
    if now.tzinfo is None:
        raise ValueError(f"now={now}: must have a time zone")
    issued = int(now.timestamp())
    return {
        "sub": name,
        "iat": issued,
        "nbf": issued - int(NOT_BEFORE_MARGIN.total_seconds()),
        "exp": issued + int(lifetime.total_seconds()),
        "jti": secrets.token_urlsafe(12),
        "role": role.value,
        "subs": list(allowed.subscribe),
        "publ": list(allowed.publish),
        "acl": _emqx_rules(allowed),
    }


def _emqx_rules(allowed: Permissions) -> list[dict[str, str | bool]]:
    """Return the rules for EMQX 5.5 and later, where the first match wins.

    EMQX strips ``$share/group/`` from a filter before it evaluates the rules, so shared forms need no rule. Actions
    that match no rule would be decided by the cluster's other checks, which allow them by default: hence the last rule.
    """
    subscribed = [filter_ for filter_ in allowed.subscribe if not filter_.startswith("$share/")]
    rules: list[dict[str, str | bool]] = []
    rules += ({"permission": "allow", "action": "subscribe", "topic": topic} for topic in subscribed)
    for topic in allowed.publish:
        rule: dict[str, str | bool] = {"permission": "allow", "action": "publish", "topic": topic}
        # Without this field, a rule applies to retained messages as well.
        rules.append(rule if topic in allowed.retain else {**rule, "retain": False})
    return [*rules, {"permission": "deny", "action": "all", "topic": "#"}]


def token_source(key: SigningKey, role: Role, name: str, env: Environment) -> Callable[[], str]:
    """Return a function that signs a new token on each call, for a broker session.

    Raises:
        InvalidName: ``name`` is invalid for a token; raised here, not by the returned function.
    """
    check_name(role, name, env)
    return lambda: sign(key, role, name, env)

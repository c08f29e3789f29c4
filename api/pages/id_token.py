"""Check the ID token that a provider of OpenID Connect issued for a login. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc.errors import JoseError

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Those with a public key: with a shared secret, whoever may check a token could make one."""

LEEWAY_SECONDS: Final = 60
"""Seconds by which the provider's clock may differ from ours."""

_LONGEST: Final = 32_768
"""Characters of a token."""


class InvalidIdToken(Exception):
    """The token does not prove who has logged in. The message names the reason and quotes nothing of the token."""


class UnknownSigningKey(InvalidIdToken):
    """The provider has signed with a key that is not in the given set; it may be new."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token of one login must state."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str | None = None


def check_id_token(text: str, keys: Mapping[str, Any], expected: Expected, now: datetime) -> dict[str, Any]:
    """Return the claims of a valid ID token.

    Args:
        keys: the provider's key set (JWKS).
        now: aware.

    Raises:
        UnknownSigningKey: the key is not in the set.
        InvalidIdToken: the token is malformed, forged, expired, or was issued for another client or login.
    """
    if len(text) > _LONGEST:
        raise InvalidIdToken("it is too long")
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidIdToken("it is malformed") from None
    if header.get("alg") not in ALGORITHMS:
        raise InvalidIdToken("its algorithm is not permitted")
    claims = _verified(text, header, _candidates(keys, header))
    _check_claims(claims, header, expected, now)
    return claims


def _candidates(keys: Mapping[str, Any], header: Mapping[str, Any]) -> list[jwt.PyJWK]:
    """Return the keys that may have signed: the one that the header names, or all if it names none."""
    try:
        known = jwt.PyJWKSet.from_dict(dict(keys)).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        raise InvalidIdToken("the provider's key set is invalid") from None
    name = header.get("kid")
    found = [key for key in known if key.public_key_use in (None, "sig") and name in (None, key.key_id)]
    if not found:
        raise UnknownSigningKey("it is signed with an unknown key")
    return found


def _verified(text: str, header: Mapping[str, Any], keys: list[jwt.PyJWK]) -> dict[str, Any]:
    """Return the claims, of which only the signature is checked."""
    unchecked = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
    for key in keys:
        try:
            # Not the PyJWK itself, which allows an RSA key one algorithm only.
            claims = jwt.decode(text, key.key, algorithms=[header["alg"]], options=unchecked)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):  # also a key of another type
            continue
        return dict(claims)
    raise InvalidIdToken("its signature is invalid")


def _check_claims(claims: dict[str, Any], header: Mapping[str, Any], expected: Expected, now: datetime) -> None:
    options = {
        "iss": {"essential": True, "value": expected.issuer},
        # Without this option, the library accepts other audiences if azp is our client.
        "aud": {"essential": True, "value": expected.client_id},
        "sub": {"essential": True},
    }
    parameters = {
        "client_id": expected.client_id,
        "nonce": expected.nonce,
        "access_token": expected.access_token,
    }
    token = CodeIDToken(claims, dict(header), options, parameters)
    try:
        token.validate(now=int(now.timestamp()), leeway=LEEWAY_SECONDS)
    except JoseError as error:
        # With the name of the claim at most, never its value.
        raise InvalidIdToken(str(error)) from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        raise InvalidIdToken("its claims are malformed") from None
    # The library accepts a list that contains the issuer.
    if claims["iss"] != expected.issuer:
        raise InvalidIdToken("its issuer is another one")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject or len(subject) > 255:
        raise InvalidIdToken("its subject is malformed")

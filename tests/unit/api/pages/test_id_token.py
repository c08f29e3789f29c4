"""Test ID tokens: only one that the provider has signed for this login is accepted."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pages.id_token import Expected, InvalidIdToken, UnknownSigningKey, check_id_token
from api.pages.oidc import ProviderError, _endpoint, verified_address
from testbed.oidc_provider import Key, new_key, public_jwk
from testbed.random_inputs import examples

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
AT = int(NOW.timestamp())
EXPECTED = Expected("https://login.example", "pages", "the nonce", "the access token")
RSA, EC, OTHER_RSA, OTHER_EC = new_key("RS256"), new_key("ES256"), new_key("RS256"), new_key("ES256")
KEYS = {"keys": [public_jwk(RSA, "rsa", "RS256"), public_jwk(EC, "ec", "ES256")]}
HASH = base64.urlsafe_b64encode(hashlib.sha256(b"the access token").digest()[:16]).decode().rstrip("=")


def claims(**changes: Any) -> dict[str, Any]:
    usual = {
        "iss": "https://login.example",
        "aud": "pages",
        "sub": "248289761001",
        "iat": AT - 5,
        "exp": AT + 300,
        "nonce": "the nonce",
        "at_hash": HASH,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def signed(content: dict[str, Any], key: Key = RSA, algorithm: str = "RS256", kid: str | None = "rsa") -> str:
    # Not jwt.encode, which refuses some of what a hostile provider may send.
    return jwt.PyJWS().encode(json.dumps(content).encode(), key, algorithm, {} if kid is None else {"kid": kid})


def check(text: str, keys: Any = KEYS) -> dict[str, Any]:
    return check_id_token(text, keys, EXPECTED, NOW)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (RSA, "RS256", None), (EC, "ES256", None), (RSA, "PS256", "rsa")],
)
def test_token_of_the_provider_is_accepted(key: Key, algorithm: str, kid: str | None) -> None:
    assert check(signed(claims(), key, algorithm, kid))["sub"] == "248289761001"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["pages"]},
        {"aud": ["other", "pages"], "azp": "pages"},
        {"at_hash": None},
        {"exp": AT - 30},  # clocks differ
        {"iat": AT + 30},
        {"email": 5},
    ],
)
def test_other_forms_that_the_standard_permits_are_accepted(changes: dict[str, Any]) -> None:
    check(signed(claims(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": "https://login.example/"},
        {"iss": None},
        {"iss": ["https://login.example"]},
        {"aud": "another client"},
        {"aud": "another client", "azp": "pages"},
        {"aud": None},
        {"aud": []},
        {"aud": ["pages", "other"], "azp": "other"},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": ["248289761001"]},
        {"sub": "x" * 256},
        {"nonce": None},
        {"nonce": "another nonce"},
        {"nonce": ""},
        {"exp": AT - 61},
        {"exp": None},
        {"exp": "never"},
        {"exp": 1e400},
        {"iat": AT + 61},
        {"iat": None},
        {"nbf": AT + 61},
        {"at_hash": HASH[:-1] + "x"},
    ],
    ids=str,
)
def test_token_for_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidIdToken) as refusal:
        check(signed(claims(**changes)))
    assert "248289761001" not in str(refusal.value)


def test_token_that_another_key_has_signed_is_refused() -> None:
    for key, algorithm, kid in ((OTHER_RSA, "RS256", "rsa"), (OTHER_EC, "ES256", "ec"), (OTHER_RSA, "RS256", None)):
        with pytest.raises(InvalidIdToken, match="signature"):
            check(signed(claims(), key, algorithm, kid))
    with pytest.raises(InvalidIdToken, match="signature"):
        check(signed(claims(), EC, "ES256", "rsa"))
    with pytest.raises(UnknownSigningKey):
        check(signed(claims(), RSA, "RS256", "a new one"))


def test_token_that_anyone_could_make_is_refused() -> None:
    secret = public_jwk(RSA, "rsa", "RS256")["n"]
    with pytest.raises(InvalidIdToken, match="not permitted"):
        check(jwt.encode(claims(), secret, algorithm="HS256", headers={"kid": "rsa"}))
    with pytest.raises(InvalidIdToken, match="not permitted"):
        check(jwt.encode(claims(), "", algorithm="none"))
    head, body, signature = signed(claims()).split(".")
    forged = base64.urlsafe_b64encode(json.dumps(claims(sub="1")).encode()).decode().rstrip("=")
    for text in (f"{head}.{forged}.{signature}", f"{head}.{body}.", f"{head}.{body}", f"{head}.{body}.AAAA"):
        with pytest.raises(InvalidIdToken):
            check(text)


@given(text=st.text(max_size=200) | st.text("abc.-_=eyJ", max_size=200))
@examples(100)
def test_hostile_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdToken):
        check(text)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"keys": []},
        {"keys": [{}]},
        {"keys": 7},
        {"keys": [7]},
        {"keys": [{"kty": "oct", "k": "AAAA"}]},
        {"keys": None},
    ],
    ids=str,
)
def test_hostile_key_set_is_refused(keys: Any) -> None:
    with pytest.raises(InvalidIdToken):
        check(signed(claims()), keys)


def test_too_long_token_is_refused() -> None:
    with pytest.raises(InvalidIdToken, match="too long"):
        check("x" * 100_000)


@pytest.mark.parametrize(
    ("given_claims", "found"),
    [
        ({"email": "anna@example.org", "email_verified": True}, "anna@example.org"),
        ({"email": "anna@example.org", "email_verified": False}, None),
        ({"email": "anna@example.org", "email_verified": "true"}, None),
        ({"email": "anna@example.org", "email_verified": 1}, None),
        ({"email": "anna@example.org"}, None),
        ({"email_verified": True}, None),
        ({"email": None, "email_verified": True}, None),
        ({"email": "", "email_verified": True}, None),
        ({"email": "anna", "email_verified": True}, None),
        ({"email": "a@b@example.org", "email_verified": True}, None),
        ({"email": "anna@example.org\n", "email_verified": True}, None),
        ({"email": "x" * 250 + "@example.org", "email_verified": True}, None),
    ],
)
def test_address_counts_only_if_it_is_verified(given_claims: dict[str, Any], found: str | None) -> None:
    assert verified_address(given_claims) == found


@pytest.mark.parametrize(
    "url", [None, 7, "", "ftp://x", "http://login.example/token", "https://", "//x", "https://[", "x"]
)
def test_endpoint_must_be_https(url: Any) -> None:
    with pytest.raises(ProviderError, match="token_endpoint"):
        _endpoint({"token_endpoint": url}, "token_endpoint")


def test_endpoint_may_be_on_loopback() -> None:
    for url in ("https://login.example/token", "http://127.0.0.1:9/token", "http://localhost/token"):
        assert _endpoint({"token_endpoint": url}, "token_endpoint") == url

"""Test the tokens of the older protocol: who they name, how long, and that no other token serves for them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from auth.access_tokens import access_lifetime, sign_access, verify_access
from auth.tokens import Role, load_key, sign
from schema.names import InvalidName

NAME = "nlams1-a.prod.mon.example"
ISSUER = "https://api.example"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SECRET = "0123456789abcdef" * 4
P384 = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("text", [SECRET, P384], ids=["HS384", "ES384"])
def test_a_token_names_its_monitor_until_its_end(text: str) -> None:
    key = load_key(text)
    token = sign_access(key, NAME, "prod", issuer=ISSUER, now=NOW, lifetime=timedelta(minutes=10))

    def verified(now: datetime = NOW, **changed: Any) -> str | None:
        return verify_access(key, token, **{"env": "prod", "issuer": ISSUER} | changed, now=now)

    assert verified() == verified(NOW + timedelta(seconds=599)) == NAME
    assert verified(NOW + timedelta(minutes=10)) is None
    assert verified(NOW - timedelta(minutes=1)) is None
    assert verified(issuer="https://other.example") is None
    assert verified(env="test") is None
    assert verify_access(load_key(SECRET[::-1]), token, "prod", issuer=ISSUER, now=NOW) is None
    claims = jwt.decode(token, options={"verify_signature": False})
    assert not {"role", "subs", "publ", "acl"} & claims.keys(), "it grants nothing at the broker"


def test_no_other_token_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    key = load_key(SECRET)
    unsigned = jwt.encode({"sub": NAME, "aud": "monitor-api", "iss": ISSUER}, None, algorithm="none")
    for other in (sign(key, Role.MONITOR, NAME, "prod", now=NOW), unsigned, "", "a.b.c", "x" * 5000):
        assert verify_access(key, other, "prod", issuer=ISSUER, now=NOW) is None


def test_only_monitors_of_the_environment_get_one() -> None:
    for name in ("nlams1-a.test.mon.example", "ingest", ""):
        with pytest.raises(InvalidName):
            sign_access(load_key(SECRET), name, "prod", issuer=ISSUER, now=NOW)


@pytest.mark.parametrize(
    ("asked", "minutes"), [(None, 60), (0, 60), (-5, 60), (1, 10), (1800, 30), (3600, 60), (10**30, 60)]
)
def test_lifetimes_are_between_ten_minutes_and_an_hour(asked: int | None, minutes: int) -> None:
    assert access_lifetime(asked) == timedelta(minutes=minutes)

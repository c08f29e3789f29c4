"""Test tokens: the permissions and lifetime of each role, and refused keys and names."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from auth.api_keys import derive_pepper
from auth.tokens import InvalidKey, Role, SigningKey, claims, load_key, sign, token_source
from schema.names import Environment, InvalidName
from schema.topics import Topics

SECRET = "x" * 24 + "0123456789abcdefghijklmn"
NOW = datetime(2026, 5, 1, 12, 0, 0, 700_000, tzinfo=UTC)
MONITOR = "uspao1-21wase0.test.mon.ntppool.dev"


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, protection: KeySerializationEncryption | None = None
) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection or NoEncryption()).decode()


@pytest.fixture(scope="module")
def ec_pem() -> str:
    return pem(ec.generate_private_key(ec.SECP384R1()))


def decoded(token: str, key: SigningKey) -> dict[str, Any]:
    return jwt.decode(
        token,
        key.verification_text(),
        algorithms=[key.algorithm],
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )


# --- keys ---------------------------------------------------------------------------------------------


def test_a_secret_signs_with_hs384() -> None:
    key = load_key(SECRET)
    token = sign(key, Role.SERVER, "ingest", "test")
    assert jwt.get_unverified_header(token)["alg"] == "HS384"
    assert jwt.decode(token, SECRET, algorithms=["HS384"])["sub"] == "ingest"


def test_private_key_signs_with_es384_and_only_its_public_key_is_exported(ec_pem: str) -> None:
    key = load_key(ec_pem)
    token = sign(key, Role.SERVER, "ingest", "test")
    assert jwt.get_unverified_header(token)["alg"] == "ES384"
    assert key.verification_text().startswith("-----BEGIN PUBLIC KEY-----")
    assert jwt.decode(token, key.verification_text(), algorithms=["ES384"])["sub"] == "ingest"


def test_white_space_around_a_key_is_ignored(ec_pem: str) -> None:
    for space in " \t\r\n\v\f":
        assert load_key(f"{space}{SECRET}{space}").verification_text() == SECRET
    assert load_key(f"\n{ec_pem}\n").algorithm == "ES384"


def test_secret_must_have_at_least_48_bytes() -> None:
    assert load_key("é" * 24).algorithm == "HS384"
    with pytest.raises(InvalidKey, match=r"47 bytes.* at least 48"):
        load_key("s" * 47)
    with pytest.raises(InvalidKey, match="0 bytes"):
        load_key(" \n")
    with pytest.raises(InvalidKey, match="10 bytes"):
        load_key(" " * 50 + "tenlettrs." + " " * 50)


def test_a_secret_with_nul_is_refused() -> None:
    with pytest.raises(InvalidKey, match="NUL"):
        load_key(SECRET + "\0" + SECRET)


def test_other_pem_keys_are_refused_and_the_required_kind_is_named(ec_pem: str) -> None:
    public = load_key(ec_pem).verification_text()
    protected = pem(ec.generate_private_key(ec.SECP384R1()), BestAvailableEncryption(b"secret"))
    refused = {
        pem(rsa.generate_private_key(65537, 2048)): "not an EC key",
        pem(ec.generate_private_key(ec.SECP256R1())): "secp256r1",
        public: "not an unencrypted PEM private key",
        protected: "not an unencrypted PEM private key",
        ec_pem[:80]: "not an unencrypted PEM private key",
    }
    for text, warning in refused.items():
        with pytest.raises(InvalidKey, match=warning) as caught:
            load_key(text)
        assert "secp384r1" in str(caught.value)
        assert caught.value.__cause__ is None
        hidden = caught.value.__context__ is None or caught.value.__suppress_context__
        assert hidden, "the error behind it may quote the key"


def test_no_repr_or_error_message_shows_a_key(ec_pem: str) -> None:
    for text in (SECRET, ec_pem):
        shown = f"{load_key(text)!r} {load_key(text)!s}"
        assert not any(line in shown for line in text.splitlines())
    with pytest.raises(InvalidKey) as caught:
        load_key("hunter2")
    assert "hunter2" not in str(caught.value)


# --- permissions of each role -------------------------------------------------------------------------

EVERYTHING = "/test/#"
OWN = "/test/monitors/{}/" + MONITOR
PERMISSIONS = {
    Role.MONITOR: (
        timedelta(hours=6),
        {
            OWN.format("requests") + "/+",
            OWN.format("config"),
            OWN.format("assignments") + "/#",
            OWN.format("acks") + "/+",
            OWN.format("control"),
        },
        {
            OWN.format("status") + "/status",
            OWN.format("status") + "/api-test",
            OWN.format("results") + "/+",
            OWN.format("data") + "/+",
        },
    ),
    Role.SERVER: (timedelta(hours=6), {EVERYTHING, "$share/+/" + EVERYTHING}, {EVERYTHING}),
    Role.OBSERVER: (timedelta(hours=12), {EVERYTHING}, set()),
    Role.ADMIN: (timedelta(minutes=5), {EVERYTHING}, {EVERYTHING}),
    Role.EXPORTER: (timedelta(days=1095), {"$SYS/#"}, set()),
}


@pytest.mark.parametrize("role", Role)
def test_claims_match_the_permissions_of_each_role(role: Role) -> None:
    lifetime, subscribe, publish = PERMISSIONS[role]
    name = MONITOR if role is Role.MONITOR else "somebody"
    key = load_key(SECRET)
    said = decoded(sign(key, role, name, "test", now=NOW), key)
    issued = int(NOW.timestamp())
    assert (said["sub"], said["role"]) == (name, role.value)
    assert (said["iat"], said["nbf"], said["exp"]) == (issued, issued - 30, issued + lifetime.total_seconds())
    assert set(said["subs"]) == subscribe
    assert set(said["publ"]) == publish


@pytest.mark.parametrize("role", Role)
def test_emqx_rules_grant_the_same_permissions(role: Role) -> None:
    said = claims(role, MONITOR if role is Role.MONITOR else "somebody", "test", NOW)
    *allowed, last = said["acl"]
    rules = {(rule["permission"], rule["action"], rule["topic"]) for rule in allowed}
    plain = {topic for topic in said["subs"] if not topic.startswith("$share/")}
    assert rules == {("allow", "subscribe", t) for t in plain} | {("allow", "publish", t) for t in said["publ"]}
    assert last == {"permission": "deny", "action": "all", "topic": "#"}
    kept_from_retaining = {rule["topic"] for rule in said["acl"] if "retain" in rule}
    others = {OWN.format("status") + "/api-test", OWN.format("results") + "/+", OWN.format("data") + "/+"}
    assert kept_from_retaining == (others if role is Role.MONITOR else set())
    for rule in said["acl"]:
        assert set(rule) - {"retain"} == {"permission", "action", "topic"}
        assert rule.get("retain", False) is False


@pytest.mark.parametrize("env", get_args(Environment))
def test_permissions_are_limited_to_the_environment(env: Environment) -> None:
    for role in set(Role) - {Role.EXPORTER, Role.MONITOR}:
        said = claims(role, "x", env, NOW)
        assert all(f"/{env}/" in topic for topic in said["subs"] + said["publ"])


def test_monitor_has_permissions_below_its_own_name_only() -> None:
    said = claims(Role.MONITOR, MONITOR, "test", NOW)
    assert all(topic.split("/")[4] == MONITOR for topic in said["subs"] + said["publ"])
    assert Topics("test").monitor_control(MONITOR) not in said["publ"]


def test_every_token_is_unique() -> None:
    yield_token = token_source(load_key(SECRET), Role.SERVER, "scorer", "test")
    assert len({yield_token() for _ in range(50)}) == 50


def test_token_for_the_longest_name_is_far_below_the_brokers_limit() -> None:
    longest = ".".join(["a" * 63, "test", "b" * 63, "c" * 63, "d" * 56])
    assert len(longest) == 253
    assert len(sign(load_key(SECRET), Role.MONITOR, longest, "test")) < 8 * 1024


# --- names and lifetimes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a+b", "#", "in/gest", "a\0b", "a\nb", "a\x7f", "n" * 254, "é" * 127])
@pytest.mark.parametrize("role", Role)
def test_names_unusable_as_a_topic_level_are_refused(role: Role, name: str) -> None:
    with pytest.raises(InvalidName, match="name"):
        sign(load_key(SECRET), role, name, "test")
    with pytest.raises(InvalidName):
        token_source(load_key(SECRET), role, name, "test")


@given(st.text(max_size=20))
def test_signed_subject_never_contains_special_topic_characters(name: str) -> None:
    try:
        said = jwt.decode(sign(load_key(SECRET), Role.SERVER, name, "test"), SECRET, algorithms=["HS384"])
    except (InvalidName, UnicodeEncodeError):
        return
    assert said["sub"] == name
    assert name and not set(name) & set("+#/\0")


@pytest.mark.parametrize("name", ["uspao1-x", "uspao1-x.prod.mon.ntppool.dev", "Uspao1-x.test.mon.ntppool.dev"])
def test_monitor_role_requires_a_monitor_name_of_its_environment(name: str) -> None:
    with pytest.raises(InvalidName):
        sign(load_key(SECRET), Role.MONITOR, name, "test")


def test_lifetime_may_be_shorter_but_not_longer_than_that_of_the_role() -> None:
    key = load_key(SECRET)
    said = decoded(sign(key, Role.ADMIN, "ask", "test", now=NOW, lifetime=timedelta(seconds=7)), key)
    assert said["exp"] - said["iat"] == 7
    for wrong in (timedelta(minutes=5, seconds=1), timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=500)):
        with pytest.raises(ValueError, match=r"must be 1 s to 0:05:00 for the role admin"):
            sign(key, Role.ADMIN, "ask", "test", lifetime=wrong)


def test_time_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        sign(load_key(SECRET), Role.ADMIN, "ask", "test", now=NOW.replace(tzinfo=None))


# --- derived secrets ----------------------------------------------------------------------------------


def test_derived_secrets_differ_by_key_and_purpose(ec_pem: str) -> None:
    keys = [load_key(SECRET), load_key(f" {SECRET}\n"), load_key(SECRET + "x"), load_key(ec_pem)]
    one, same, other, ec_key = (key.derive_secret("sessions") for key in keys)
    assert one == same and len({one, other, ec_key, keys[0].derive_secret("forms")}) == 4
    assert all(len(secret) == 32 for secret in (one, other, ec_key))
    assert load_key(ec_pem).derive_secret("sessions") == ec_key
    assert derive_pepper(SECRET).material not in (one, keys[0].derive_secret("forms"))

"""Test logins to the real broker: accepted tokens, names, client ids and protocol versions."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from auth.tokens import Role, SigningKey, load_key
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Refused, Will, signed

MONITOR = "login1-x.test.mon.example"
NOT_AUTHORIZED = "Not authorized"


def new_ec_key() -> SigningKey:
    key = ec.generate_private_key(ec.SECP384R1())
    return load_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.fixture(scope="module")
def ec_broker() -> Iterator[Broker]:
    with Broker(new_ec_key()) as running:
        yield running


def b64(data: bytes | dict[str, object]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changed: object) -> dict[str, object]:
    now = int(time.time())
    said: dict[str, object] = {"sub": "joe", "iat": now, "nbf": now - 30, "exp": now + 600, "role": "admin"}
    said |= {"subs": [], "publ": [], **changed}
    return {name: value for name, value in said.items() if value is not None}


def attempt(
    broker: Broker, token: str | bytes | None, name: str | None = "joe", client_id: str | None = None, version: int = 5
) -> None:
    with MqttClient(broker.port, name, token, client_id=client_id, version=version):
        pass


def refusal(broker: Broker, *args: object, **kwargs: object) -> str:
    with pytest.raises(Refused) as caught:
        attempt(broker, *args, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


def last_refusal(broker: Broker) -> str:
    return [line for line in broker.log_text().splitlines() if "refused" in line][-1]


# --- tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_every_role_can_log_in(broker: Broker, role: Role) -> None:
    name = MONITOR if role is Role.MONITOR else "joe"
    attempt(broker, broker.token(role, name), name)


@pytest.mark.parametrize("role", Role)
def test_every_role_can_log_in_with_a_public_key(ec_broker: Broker, role: Role) -> None:
    name = MONITOR if role is Role.MONITOR else "joe"
    attempt(ec_broker, ec_broker.token(role, name), name)


def test_broker_with_a_public_key_has_no_private_key(ec_broker: Broker) -> None:
    held = "".join(file.read_text() for file in ec_broker.process.directory.glob("jwt*"))
    assert "PUBLIC" in held
    assert "PRIVATE" not in held


Forgery = Callable[[SigningKey], str]
FORGERIES: dict[str, Forgery] = {
    "algorithm none": lambda key: jwt.encode(claims(), "", algorithm="none"),
    "algorithm None in other case, with a signature": lambda key: (
        b64({"alg": "nOnE", "typ": "JWT"}) + "." + b64(claims()) + "." + key.encode(claims()).split(".")[2]
    ),
    "another algorithm of the same family": lambda key: jwt.encode(
        claims(), key.verification_text(), algorithm="HS512"
    ),
    "a weaker algorithm of the same family": lambda key: jwt.encode(
        claims(), key.verification_text(), algorithm="HS256"
    ),
    "an RSA key of the sender's": lambda key: jwt.encode(
        claims(), rsa.generate_private_key(65537, 2048), algorithm="RS384"
    ),
    "an EC key of the sender's": lambda key: new_ec_key().encode(claims()),
    "another secret": lambda key: load_key("y" * 48).encode(claims()),
    "no signature": lambda key: key.encode(claims()).rsplit(".", 1)[0] + ".",
    "no third part": lambda key: key.encode(claims()).rsplit(".", 1)[0],
    "a changed claim": lambda key: ".".join(
        [(parts := key.encode(claims()).split("."))[0], b64(claims(role="server")), parts[2]]
    ),
    "a part too many": lambda key: key.encode(claims()) + ".x",
    "dots": lambda key: "..",
    "text": lambda key: "not a token",
    "no base64": lambda key: "!!.??.==",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_token_not_signed_with_the_key_and_its_algorithm_is_refused(broker: Broker, forgery: str) -> None:
    assert refusal(broker, FORGERIES[forgery](broker.key)) == NOT_AUTHORIZED
    assert "not signed" in last_refusal(broker)


@pytest.mark.parametrize("algorithm", ["HS384", "HS256", "HS512", "RS384", "ES256", "none"])
def test_public_key_is_not_accepted_as_a_shared_secret(ec_broker: Broker, algorithm: str) -> None:
    public = ec_broker.key.verification_text()
    for secret in (public, public.strip()):
        body = b64({"alg": algorithm, "typ": "JWT"}) + "." + b64(claims())
        digest = {"HS256": "sha256", "HS512": "sha512"}.get(algorithm, "sha384")
        mac = hmac.new(secret.encode(), body.encode(), getattr(hashlib, digest)).digest()
        assert refusal(ec_broker, f"{body}.{b64(mac)}") == NOT_AUTHORIZED


BROKEN_CLAIMS: dict[str, tuple[dict[str, object], str]] = {
    "no exp": ({"exp": None}, "claim exp"),
    "exp as text": ({"exp": str(int(time.time()) + 600)}, "claim exp"),
    "exp with a fraction": ({"exp": time.time() + 600}, "claim exp"),
    "exp as a boolean": ({"exp": True}, "claim exp"),
    "exp as a list": ({"exp": [int(time.time()) + 600]}, "claim exp"),
    "exp beyond 64 bits": ({"exp": 2**64}, "not signed"),
    "exp long ago": ({"exp": 1}, "has expired"),
    "exp negative": ({"exp": -1}, "has expired"),
    "exp right now": ({"exp": int(time.time())}, "has expired"),
    "no nbf": ({"nbf": None}, "claim nbf"),
    "nbf as text": ({"nbf": "0"}, "claim nbf"),
    "nbf with a fraction": ({"nbf": 0.5}, "claim nbf"),
    "nbf in an hour": ({"nbf": int(time.time()) + 3600}, "not valid yet"),
    "no sub": ({"sub": None}, "claim sub"),
    "sub as a number": ({"sub": 7}, "claim sub"),
    "sub empty": ({"sub": ""}, "claim sub"),
    "sub null inside": ({"sub": "joe\0"}, "not signed"),
    "no role": ({"role": None}, "claim role"),
    "role as a number": ({"role": 1}, "claim role"),
    "no subs": ({"subs": None}, "claim subs or publ"),
    "subs as text": ({"subs": "/test/#"}, "claim subs or publ"),
    "subs with a number": ({"subs": ["/test/#", 1]}, "claim subs or publ"),
    "publ as an object": ({"publ": {"/test/#": True}}, "claim subs or publ"),
    "publ with a broken filter": ({"publ": ["/test/#/x"]}, "claim subs or publ"),
    "publ with half a level": ({"publ": ["/test/a+"]}, "claim subs or publ"),
    "subs with an empty filter": ({"subs": [""]}, "claim subs or publ"),
    "subs shared by nobody": ({"subs": ["$share//x"]}, "claim subs or publ"),
}


@pytest.mark.parametrize("case", BROKEN_CLAIMS)
def test_signed_token_with_invalid_claims_is_refused(broker: Broker, case: str) -> None:
    changed, why = BROKEN_CLAIMS[case]
    assert refusal(broker, broker.key.encode(claims(**changed))) == NOT_AUTHORIZED
    assert why in last_refusal(broker)


@pytest.mark.parametrize("name", ["a+b", "a#b", "+", "#", "a/b", "/", "a\tb", "n" * 254])
def test_subject_that_is_not_a_single_topic_level_is_refused(broker: Broker, name: str) -> None:
    # From 2.1 on, Mosquitto itself refuses a client id with a control character.
    answers = (NOT_AUTHORIZED, "closed", "Client identifier not valid")
    assert refusal(broker, broker.key.encode(claims(sub=name)), name) in answers
    assert refusal(broker, broker.key.encode(claims(sub=name)), name, "joe") in (NOT_AUTHORIZED, "closed")


def test_token_with_a_critical_extension_is_refused(broker: Broker) -> None:
    token = jwt.encode(claims(), broker.key.verification_text(), "HS384", headers={"crit": ["x"], "x": 1})
    assert refusal(broker, token) == NOT_AUTHORIZED
    assert "critical extension" in last_refusal(broker)


def test_tokens_longer_than_8_kib_are_refused(broker: Broker) -> None:
    def token(padding: int) -> str:
        return broker.key.encode(claims(pad="x" * padding))

    padding = 5000
    while len(token(padding + 1)) <= 8192:
        padding += 1
    assert len(token(padding)) > 8188
    attempt(broker, token(padding))
    assert refusal(broker, token(padding + 4)) == NOT_AUTHORIZED
    assert "longer than 8192 bytes" in last_refusal(broker)
    assert refusal(broker, token(30_000)) in (NOT_AUTHORIZED, "closed")


def test_expired_and_not_yet_valid_tokens_are_refused(broker: Broker) -> None:
    now = datetime.now(UTC)
    old = broker.token(Role.ADMIN, "joe", now=now - timedelta(minutes=5, seconds=1))
    assert refusal(broker, old) == NOT_AUTHORIZED
    attempt(broker, broker.token(Role.ADMIN, "joe", now=now + timedelta(seconds=28)))
    assert refusal(broker, broker.token(Role.ADMIN, "joe", now=now + timedelta(seconds=60))) == NOT_AUTHORIZED


# --- names, client ids and protocol versions ----------------------------------------------------------


def test_user_name_must_equal_the_subject(broker: Broker) -> None:
    token = broker.token(Role.ADMIN, "joe")
    for name in ("jo", "joe2", "Joe", "bob", "", " joe", "+", "#"):
        assert refusal(broker, token, name, "joe") == NOT_AUTHORIZED, name
    assert refusal(broker, token, "joe\0", "joe") in ("closed", NOT_AUTHORIZED)


def test_login_requires_user_name_and_password(broker: Broker) -> None:
    token = broker.token(Role.ADMIN, "joe")
    assert refusal(broker, None, None, "joe") == NOT_AUTHORIZED
    assert refusal(broker, None, "joe") == NOT_AUTHORIZED
    assert refusal(broker, "", "joe") == NOT_AUTHORIZED
    assert refusal(broker, token, None, "joe") in (NOT_AUTHORIZED, "closed")


@pytest.mark.parametrize("client_id", ["joe", "joe/", "joe/1", "joe/1/2", "joe/ingest-é"])
def test_client_ids_derived_from_the_name_are_accepted(broker: Broker, client_id: str) -> None:
    attempt(broker, broker.token(Role.ADMIN, "joe"), "joe", client_id)


@pytest.mark.parametrize(
    "client_id", ["jo", "joe2", "joe-1", "bob", "bob/joe", "/joe", "joe/+", "joe/#", "joe/a+b", ""]
)
def test_other_client_ids_are_refused(broker: Broker, client_id: str) -> None:
    assert refusal(broker, broker.token(Role.ADMIN, "joe"), "joe", client_id) in (NOT_AUTHORIZED, "Unspecified error")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("version", [3, 4])
def test_only_monitors_must_speak_mqtt_5(broker: Broker, role: Role, version: int) -> None:
    name = MONITOR if role is Role.MONITOR else "joe"
    token = broker.token(role, name)
    if role is Role.MONITOR:
        assert refusal(broker, token, name, version=version) == NOT_AUTHORIZED
        assert "must speak MQTT 5" in last_refusal(broker)
    else:
        attempt(broker, token, name, version=version)


def test_role_unknown_to_the_broker_must_speak_mqtt_5(broker: Broker) -> None:
    token = signed(broker.key, role="auditor")
    attempt(broker, token)
    assert refusal(broker, token, version=4) == NOT_AUTHORIZED


# --- the log ------------------------------------------------------------------------------------------


def test_no_token_or_key_reaches_the_log() -> None:
    for key in (None, new_ec_key()):
        with Broker(key) as broker:
            good, old = broker.token(Role.ADMIN, "joe"), signed(broker.key, exp=1)
            secret = broker.key.verification_text()
            for token in (old, good[:-8], good + "." + good, secret, secret * 3):
                refusal(broker, token)
            for field in (good, old, good[:60], secret):
                refusal(broker, good, field, "joe")
                refusal(broker, good, "joe", field)
                refusal(broker, "wrong", field, field)
            attempt(broker, good)
            with MqttClient(broker.port, "joe", good, will=Will("/test/x", good)) as client:
                client.subscribe("/test/x")
                client.publish("/test/x", good)
                client.publish("$SYS/broker/x", good)
            broker.sighup()
            broker.restart()
            log = broker.log_text()
            assert log.count("refused") >= 14
            for part in [*good.split("."), *old.split(".")]:
                assert part[:24] not in log
            for line in secret.splitlines():
                assert line[:24] not in log or line.startswith("-----")

"""Test answers of the API: usable ones are decoded, hostile ones refused without quoting a secret."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api_client import Answer
from agent.api_messages import InvalidAnswer, decode_certificate, decode_config, decode_registration, decode_token
from agent.registration import Registration
from testbed.random_inputs import examples
from testbed.tls import LocalCa

NAME = "uspao1-acc1.devel.mon.example"
DECODERS = [
    lambda body: decode_config(body, "devel"),
    decode_token,
    decode_certificate,
    decode_registration,
]


def config(**members: Any) -> bytes:
    return json.dumps({"tls_name": NAME, **members}).encode()


def test_configuration_lists_the_registered_protocols() -> None:
    body = config(ipv4={"ip": "192.0.2.1", "status": "testing"}, ipv6={"ip": "", "status": ""}, more=[1])
    found = decode_config(body, "devel")
    assert {ipv: (p.ip, p.status) for ipv, p in found.protocols.items()} == {"v4": ("192.0.2.1", "testing")}


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"tls_name": "a.prod.mon.example"}, "belongs to prod"),
        ({"tls_name": "../../etc"}, "must be <short>"),
        ({"tls_name": 5}, "Expected `str`"),
        ({"ipv4": {"ip": "2001:db8::1"}}, "ipv4.ip: is an address of the other protocol"),
        ({"ipv6": {"ip": "nowhere"}}, "ipv6.ip: is not an address"),
        ({"broker": {"host": "a b"}}, "broker.host"),
        ({"broker": {"host": "b", "port": 0}}, ">= 1"),
        ({"broker": {"host": "b", "ca": "no PEM"}}, "broker.ca"),
        ({"broker": {"host": "b", "ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}}, "broker.ca"),
    ],
)
def test_unusable_configuration_is_refused(members: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidAnswer, match=why):
        decode_config(config(**members), "devel")


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://a\x1b[2J", "https:// b", "file:///etc"])
def test_address_that_is_not_for_a_browser_is_not_shown(url: str) -> None:
    with pytest.raises(InvalidAnswer, match="URL"):
        decode_registration(json.dumps({"URL": url, "Status": "pending"}).encode())


@pytest.mark.parametrize("secret", ["line\nbreak-secret", "spaced secret", "x" * 9000, "sécrète-secret"])
def test_unusable_secrets_are_refused_without_quoting_them(secret: str) -> None:
    with pytest.raises(InvalidAnswer) as refused:
        decode_registration(json.dumps({"Status": "accepted", "APIToken": secret}).encode())
    assert "secret" not in str(refused.value) and "xxx" not in str(refused.value)
    with pytest.raises(InvalidAnswer) as refused:
        decode_token(json.dumps({"token": secret, "expires_on": "2026-12-01T00:00:00Z"}).encode())
    assert "secret" not in str(refused.value) and "xxx" not in str(refused.value)


def test_representations_hide_secrets() -> None:
    registration = decode_registration(b'{"Status": "accepted", "APIToken": "very-secret"}')
    token = decode_token(b'{"token": "very-secret", "expires_on": "2026-12-01T00:00:00Z"}')
    begun = Registration(id="0" * 26, url="https://api.example", hostname="", account="", started=0.0)
    answer = Answer(200, "application/json", b"very-secret")
    assert "very-secret" not in repr(registration) + repr(token) + repr(answer)
    assert begun.id not in repr(begun)


def test_only_certificates_of_a_chain_are_kept() -> None:
    ca = LocalCa()
    pair = ca.issue("a.example")
    body = json.dumps({"certificate": f"note\n{pair.certificate}{pair.key}{ca.certificate}"}).encode()
    chain = decode_certificate(body)
    assert chain.count("BEGIN CERTIFICATE") == 2 and "PRIVATE" not in chain and "note" not in chain


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["tls_name", "ipv4", "ip", "broker", "host", "port", "token", "URL", "Status"]),
                    inner,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.sampled_from(DECODERS),
)
@examples(200)
def test_hostile_answers_raise_nothing_else(body: bytes, decode: Any) -> None:
    try:
        decode(body)
    except InvalidAnswer as refused:
        assert str(refused).isprintable()


def test_deep_nesting_is_refused() -> None:
    for decode in DECODERS:
        with pytest.raises(InvalidAnswer):
            decode(b"[" * 100_000)  # type: ignore[no-untyped-call]

"""Test the CA in Vault against a small server that speaks the documented HTTP of its PKI engine."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from auth.ca.authority import AuthorityUnavailable, Revocation
from auth.ca.contents import CLIENT, SERVER, Draft, as_pem, leaf_certificate
from auth.ca.request import parse_request
from auth.ca.vault import VaultAuthority
from runtime import secrets
from schema.names import InvalidName
from testbed.fixtures.certificates import greedy_extensions, leaf_of, names_of, request_pem
from testbed.fixtures.vault_pki import TOKEN, FakePki, fake_pki

NAME = "nlams1-x.test.mon.example"
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = parse_request(request_pem(KEY))
GREEDY = parse_request(request_pem(KEY, *greedy_extensions("other.test.mon.example"), subject="other"))
DAYS = timedelta(days=90)
CA = VaultAuthority("test")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_CACERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", tmp_path / "no token here")


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePki]:
    with fake_pki("test") as server:
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield server


def sign() -> str:
    return CA.sign_monitor(REQUEST, NAME, DAYS).chain


def refusal(call: Callable[[], Any] = sign) -> str:
    with pytest.raises(AuthorityUnavailable) as caught:
        call()
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_monitor_gets_the_certificate_of_the_role_monitor(vault: FakePki) -> None:
    made = CA.sign_monitor(REQUEST, NAME, DAYS)
    leaf = leaf_of(made.chain)
    assert vault.requests == ["POST sign/monitor"]
    assert names_of(leaf) == [NAME]
    assert leaf.public_key() == KEY.public_key()
    assert made.serial == format(leaf.serial_number, "x")
    assert (made.not_before, made.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    asked = {name: value for name, value in vault.bodies[0].items() if name != "csr"}
    assert asked == {
        "common_name": NAME,
        "alt_names": NAME,
        "ip_sans": "",
        "exclude_cn_from_sans": True,
        "not_before_duration": "300s",
        "ttl": "7776000s",
    }


def test_server_gets_the_certificate_of_the_role_server(vault: FakePki) -> None:
    made = CA.sign_server(REQUEST, ["mqtt.example", "192.0.2.1", "::1"], DAYS, client=True)
    assert vault.requests == ["POST sign/server"]
    assert names_of(leaf_of(made.chain)) == ["mqtt.example", "192.0.2.1", "::1"]


def test_root_is_not_part_of_the_chain(vault: FakePki) -> None:
    assert len(x509.load_pem_x509_certificates(sign().encode())) == 1


def test_bundle_is_that_of_vault(vault: FakePki) -> None:
    assert CA.bundle() == as_pem(vault.signer.certificate)


def test_names_of_another_environment_do_not_reach_vault(vault: FakePki) -> None:
    with pytest.raises(InvalidName):
        CA.sign_monitor(REQUEST, "a.prod.mon.example", DAYS)
    assert vault.requests == []


# ---- a Vault that is set up wrongly --------------------------------------------------------------------------------


def test_certificate_with_names_of_the_request_is_revoked_and_refused(vault: FakePki) -> None:
    vault.use_csr_sans = True
    said = refusal(lambda: CA.sign_monitor(GREEDY, NAME, DAYS))
    assert "its names are others" in said
    assert list(vault.revoked) == list(vault.issued)
    vault.use_csr_sans = False
    assert names_of(leaf_of(CA.sign_monitor(GREEDY, NAME, DAYS).chain)) == [NAME]


def test_certificate_for_another_key_is_refused(vault: FakePki) -> None:
    vault.public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert "its key is another one" in refusal()


def test_certificate_without_a_usage_is_refused(vault: FakePki) -> None:
    vault.usages = [SERVER]
    assert "it lacks a usage" in refusal()
    assert CA.sign_server(REQUEST, ["mqtt.example"], DAYS).chain
    assert "it lacks a usage" in refusal(lambda: CA.sign_server(REQUEST, ["mqtt.example"], DAYS, client=True))


def test_certificate_that_ends_much_later_is_refused(vault: FakePki) -> None:
    long = vault.sign({"csr": REQUEST.pem, "alt_names": NAME, "ip_sans": "", "ttl": f"{91 * 86400}s"})
    vault.answers["sign/monitor"] = (200, {"data": long})
    assert "it is valid for too long" in refusal()


def test_ended_certificate_is_refused(vault: FakePki) -> None:
    draft = Draft(
        *(KEY.public_key(), [x509.DNSName(NAME)], [CLIENT, SERVER]),
        now=datetime.now(UTC) - timedelta(seconds=60),
        lifetime=timedelta(seconds=30),
    )
    ended = {
        "certificate": as_pem(leaf_certificate(draft, vault.signer)),
        "issuing_ca": as_pem(vault.signer.certificate),
    }
    vault.answers["sign/monitor"] = (200, {"data": ended})
    assert "it has ended" in refusal()


def test_ca_certificate_is_refused(vault: FakePki) -> None:
    root = as_pem(vault.signer.certificate)
    vault.answers["sign/monitor"] = (200, {"data": {"certificate": root, "ca_chain": [root]}})
    assert "it may sign" in refusal()


def test_certificate_of_another_issuer_is_refused(vault: FakePki) -> None:
    with fake_pki("test") as other:
        made = other.sign({"csr": REQUEST.pem, "alt_names": NAME, "ip_sans": "", "ttl": "600s"})
    made["ca_chain"] = [as_pem(vault.signer.certificate)]
    vault.answers["sign/monitor"] = (200, {"data": made})
    assert "its issuer did not sign it" in refusal()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no JSON",
        [],
        {},
        {"data": None},
        {"data": {"certificate": 1, "issuing_ca": "x"}},
        {"data": {"certificate": "x"}},
        {"data": {"certificate": "x", "ca_chain": {"a": "b"}}},
        {"data": {"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "issuing_ca": "x"}},
    ],
    ids=str,
)
def test_malformed_answer_is_refused(vault: FakePki, answer: Any) -> None:
    vault.answers["sign/monitor"] = (200, answer)
    assert "Vault's pki/test/sign/monitor" in refusal()


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_error_of_vault_is_reported_without_the_token(vault: FakePki, status: int) -> None:
    vault.answers["sign/monitor"] = (status, {"errors": [f"why, {TOKEN}"]})
    assert "why, ..." in refusal()


# ---- the connection ------------------------------------------------------------------------------------------------


def test_vault_must_be_configured() -> None:
    assert "VAULT_ADDR" in refusal()


def test_plain_http_is_for_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://vault.example:8200")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    for call in (sign, CA.bundle, lambda: CA.revocation_list([])):
        assert "must begin with https://" in refusal(call)


def test_redirect_is_not_followed_with_the_token(vault: FakePki) -> None:
    with fake_pki("test") as other:
        vault.redirect = other.address
        for call in (sign, CA.bundle, lambda: CA.revocation_list([])):
            assert "redirect (HTTP 307)" in refusal(call)
        assert other.requests == []
        assert vault.tokens, "the requests did reach the first one"


def test_rotated_token_is_used_at_once(vault: FakePki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "hvs.expired-token-of-before")
    assert "permission denied" in refusal()
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    assert sign()


# ---- revocation ----------------------------------------------------------------------------------------------------


def revoked(vault: FakePki, number: int) -> list[Revocation]:
    made = [CA.sign_monitor(REQUEST, NAME, DAYS) for _ in range(number)]
    return [Revocation(one.serial, datetime.now(UTC)) for one in made]


def serials(text: str) -> set[str]:
    return {format(one.serial_number, "x") for one in x509.load_pem_x509_crl(text.encode())}


def test_certificates_that_the_list_lacks_are_revoked(vault: FakePki) -> None:
    given = revoked(vault, 3)
    assert serials(CA.revocation_list(given[:2])) == {one.serial for one in given[:2]}
    before = len(vault.requests)
    assert serials(CA.revocation_list(given)) == {one.serial for one in given}
    assert vault.requests[before:].count("POST revoke") == 1


def test_complete_list_needs_one_request(vault: FakePki) -> None:
    assert serials(CA.revocation_list([])) == set()
    assert vault.requests == ["GET crl/pem"]


def test_list_without_a_revoked_certificate_is_not_used(vault: FakePki) -> None:
    given = revoked(vault, 1)
    vault.forgets_revocations = True
    assert "it lacks 1 revoked" in refusal(lambda: CA.revocation_list(given))


def test_certificate_unknown_to_vault_is_an_error(vault: FakePki) -> None:
    assert "not found" in refusal(lambda: CA.revocation_list([Revocation("abc", datetime.now(UTC))]))
    assert vault.bodies[-1] == {"serial_number": "0a:bc"}


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"\xff", b"x" * (17 * 1024 * 1024), {"data": {}}], ids=lambda c: str(c)[:9]
)
def test_invalid_list_is_refused(vault: FakePki, content: Any) -> None:
    vault.answers["crl/pem"] = (200, content)
    assert "Vault's pki/test/crl" in refusal(lambda: CA.revocation_list([]))


@pytest.mark.parametrize("content", [b"", b"no PEM", b"\xff", {"data": {}}], ids=str)
def test_invalid_bundle_is_refused(vault: FakePki, content: Any) -> None:
    vault.answers["ca_chain"] = (200, content)
    assert "Vault's pki/test/ca_chain" in refusal(CA.bundle)

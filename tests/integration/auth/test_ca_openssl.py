"""Test the CA with another implementation: the openssl program verifies chains, purposes, names and revocations."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from auth.ca.authority import Revocation
from auth.ca.contents import as_pem
from auth.ca.files import FileAuthority
from auth.ca.request import parse_request
from testbed.fixtures.certificates import key_pem, request_pem, verified

NAME = "nlams1-x.test.mon.example"
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = parse_request(request_pem(KEY))
DAYS = timedelta(days=90)
AT_ONCE = timedelta(0)


@pytest.fixture
def ca(tmp_path: Path) -> FileAuthority:
    authority = FileAuthority(tmp_path / "ca", "test")
    authority.create()
    return authority


def test_chain_purposes_and_name_of_a_monitor(ca: FileAuthority, tmp_path: Path) -> None:
    chain, trusted = ca.sign_monitor(REQUEST, NAME, DAYS).chain, ca.bundle()
    for purpose in ("sslclient", "sslserver"):
        assert verified(tmp_path, chain, trusted, "-purpose", purpose, "-verify_hostname", NAME) == ""
    said = verified(tmp_path, chain, trusted, "-verify_hostname", "other.test.mon.example")
    assert "hostname mismatch" in said
    assert "purpose" in verified(tmp_path, chain, trusted, "-purpose", "smimesign")


def test_purposes_and_names_of_a_server(ca: FileAuthority, tmp_path: Path) -> None:
    chain, trusted = ca.sign_server(REQUEST, ["mqtt.example", "192.0.2.1"], DAYS).chain, ca.bundle()
    assert verified(tmp_path, chain, trusted, "-purpose", "sslserver", "-verify_hostname", "mqtt.example") == ""
    assert verified(tmp_path, chain, trusted, "-purpose", "sslserver", "-verify_ip", "192.0.2.1") == ""
    assert "purpose" in verified(tmp_path, chain, trusted, "-purpose", "sslclient")
    both = ca.sign_server(REQUEST, ["mqtt.example"], DAYS, client=True).chain
    assert verified(tmp_path, both, trusted, "-purpose", "sslclient") == ""


def test_certificate_of_a_monitor_signs_no_other(ca: FileAuthority, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(key_pem(KEY))
    (tmp_path / "ca.pem").write_text(ca.sign_monitor(REQUEST, NAME, DAYS).chain)
    (tmp_path / "csr.pem").write_text(request_pem(ec.generate_private_key(ec.SECP256R1()), subject="forged"))
    command = "openssl x509 -req -in csr.pem -CA ca.pem -CAkey key.pem -set_serial 7 -days 9 -out forged.pem"
    subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=True)
    forged = (tmp_path / "forged.pem").read_text() + (tmp_path / "ca.pem").read_text()
    assert "invalid CA certificate" in verified(tmp_path, forged, ca.bundle())


def test_certificate_of_another_ca_is_not_valid(ca: FileAuthority, tmp_path: Path) -> None:
    other = FileAuthority(tmp_path / "other", "test")
    other.create()
    assert "unable to get local issuer" in verified(
        tmp_path, other.sign_monitor(REQUEST, NAME, DAYS).chain, ca.bundle()
    )


def test_revoked_certificate_is_not_valid_and_others_are(ca: FileAuthority, tmp_path: Path) -> None:
    revoked, other = (ca.sign_monitor(REQUEST, NAME, DAYS) for _ in range(2))
    crl = ca.revocation_list([Revocation(revoked.serial, datetime.now(UTC))])
    assert verified(tmp_path, other.chain, ca.bundle(), crl=crl) == ""
    assert "certificate revoked" in verified(tmp_path, revoked.chain, ca.bundle(), crl=crl)
    assert verified(tmp_path, revoked.chain, ca.bundle(), crl=ca.revocation_list([])) == ""


# ---- another root --------------------------------------------------------------------------------------------------


def test_who_knows_only_the_former_root_accepts_certificates_of_the_new_one(ca: FileAuthority, tmp_path: Path) -> None:
    old = ca.bundle()
    ca.renew(notice=AT_ONCE)
    chain = ca.sign_monitor(REQUEST, NAME, DAYS).chain
    assert verified(tmp_path, chain, old, "-purpose", "sslclient") == ""


def test_who_knows_only_the_new_root_accepts_its_certificates(ca: FileAuthority, tmp_path: Path) -> None:
    new = ca.renew(notice=AT_ONCE)
    assert verified(tmp_path, ca.sign_monitor(REQUEST, NAME, DAYS).chain, as_pem(new.certificate)) == ""


def test_third_root_is_accepted_by_those_who_know_only_the_first(ca: FileAuthority, tmp_path: Path) -> None:
    first = ca.bundle()
    ca.renew(notice=AT_ONCE)
    second = ca.bundle()
    ca.renew(notice=AT_ONCE)
    chain = ca.sign_monitor(REQUEST, NAME, DAYS).chain
    assert [verified(tmp_path, chain, trusted) for trusted in (first, second, ca.bundle())] == ["", "", ""]


def test_certificates_of_the_former_root_are_valid_until_they_are_revoked(ca: FileAuthority, tmp_path: Path) -> None:
    before = ca.sign_monitor(REQUEST, NAME, DAYS)
    ca.renew(notice=AT_ONCE)
    after = ca.sign_monitor(REQUEST, NAME, DAYS)
    for one in (before, after):
        crl = ca.revocation_list([Revocation(one.serial, datetime.now(UTC))])
        assert "certificate revoked" in verified_with_lists(tmp_path, one.chain, ca.bundle(), crl)
    for one in (before, after):
        assert verified_with_lists(tmp_path, one.chain, ca.bundle(), ca.revocation_list([])) == ""


def verified_with_lists(directory: Path, chain: str, trusted: str, lists: str) -> str:
    """Verify with each list of the text; 'openssl verify' reads only the first of a file. Return the last objection."""
    parts = [part + "-----END X509 CRL-----\n" for part in lists.split("-----END X509 CRL-----\n")[:-1]]
    assert len(parts) == 2
    said = [verified(directory, chain, trusted, crl=part) for part in parts]
    return "" if "" in said else next(one for one in said if "unable to get certificate CRL" not in one)

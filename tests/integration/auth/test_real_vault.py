"""Test the CA and the secrets in a real Vault; skipped where there is none."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from auth.ca.authority import AuthorityUnavailable, Revocation
from auth.ca.request import parse_request
from auth.ca.vault import VaultAuthority
from auth.certificates import issue_to_monitor
from runtime import secrets
from runtime.db.engine import open_database, transaction, utc_now
from runtime.db.migrate import upgrade
from schema.tables import accounts, certificates, monitors
from testbed.fixtures.certificates import greedy_extensions, leaf_of, names_of, request_pem
from testbed.fixtures.vault_server import VaultServer, vault_server

NAME = "nlams1-x.test.mon.example"
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = parse_request(request_pem(KEY))
GREEDY = parse_request(request_pem(KEY, *greedy_extensions("other.test.mon.example"), subject="other"))
DAYS = timedelta(days=90)
CA = VaultAuthority("test")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    with vault_server(tmp_path_factory.mktemp("vault")) as made:
        yield made


@pytest.fixture
def vault(server: VaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VaultServer:
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", tmp_path / "no token here")
    monkeypatch.delenv("VAULT_CACERT", raising=False)
    monkeypatch.setenv("VAULT_ADDR", server.address)
    monkeypatch.setenv("VAULT_TOKEN", server.token())
    return server


def test_certificates_are_those_that_were_asked_for(vault: VaultServer, tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text(CA.bundle())
    for request, lifetime in ((REQUEST, DAYS), (GREEDY, DAYS), (REQUEST, timedelta(minutes=2))):
        made = CA.sign_monitor(request, NAME, lifetime)
        leaf = leaf_of(made.chain)
        assert names_of(leaf) == [NAME], "of the request, only the key counts"
        assert leaf.public_key() == KEY.public_key()
        assert abs(made.not_after - datetime.now(UTC) - lifetime) < timedelta(minutes=1)
        assert datetime.now(UTC) - made.not_before > timedelta(seconds=10)
        (tmp_path / "leaf.pem").write_text(made.chain)
        for purpose in ("sslclient", "sslserver"):
            command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots.pem", "leaf.pem"]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    hosts = ["mqtt.example", "192.0.2.1", "::1"]
    assert sorted(names_of(leaf_of(CA.sign_server(REQUEST, hosts, DAYS, client=True).chain))) == sorted(hosts)


def test_revoked_certificates_are_in_the_list(vault: VaultServer) -> None:
    serials = {CA.sign_monitor(REQUEST, NAME, DAYS).serial for _ in range(2)}
    listed = CA.revocation_list([Revocation(serial, datetime.now(UTC)) for serial in serials])
    assert serials <= CA._list()[1]
    assert CA.revocation_list([Revocation(serial, datetime.now(UTC)) for serial in serials]) == listed, "once"


def test_role_that_takes_names_from_the_request_gives_no_certificate(vault: VaultServer) -> None:
    vault.set_role("monitor", use_csr_sans=True)
    try:
        before = CA._list()[1]
        with pytest.raises(AuthorityUnavailable, match="its names are others"):
            CA.sign_monitor(GREEDY, NAME, DAYS)
        assert len(CA._list()[1] - before) == 1, "what was signed is revoked"
    finally:
        vault.set_role("monitor")


def test_vault_that_refuses_or_is_sealed_is_named_without_its_token(
    vault: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = vault.token()
    vault.client.auth.token.revoke(token)
    monkeypatch.setenv("VAULT_TOKEN", token)
    calls: list[Callable[[], object]] = [
        lambda: CA.sign_monitor(REQUEST, NAME, DAYS),
        lambda: CA.revocation_list([Revocation("1a", datetime.now(UTC))]),
    ]
    for call in calls:
        with pytest.raises(AuthorityUnavailable) as caught:
            call()
        assert token not in str(caught.value) and "permission denied" in str(caught.value)
    monkeypatch.setenv("VAULT_TOKEN", vault.token())
    with pytest.raises(AuthorityUnavailable, match="not allowed"):
        VaultAuthority("test").sign_monitor(REQUEST, "nlams1-x.test.other.example", DAYS)


def test_same_request_has_one_certificate_in_vault_and_ledger(vault: VaultServer, tmp_path: Path) -> None:
    engine = open_database(sa.URL.create("sqlite", database=str(tmp_path / "ledger.db")))
    upgrade(engine)

    def fill(connection: sa.Connection) -> None:
        now = utc_now()
        connection.execute(sa.insert(accounts).values(name="x", flags={}, created_on=now))
        row = {"tls_name": NAME, "ip": "192.0.2.7", "ip_version": "v4", "account_id": 1, "status": "active"}
        connection.execute(sa.insert(monitors).values(row | {"config": "{}", "created_on": now}))

    transaction(engine, fill)
    made = [issue_to_monitor(engine, CA, REQUEST, NAME, datetime.now(UTC), DAYS) for _ in range(2)]
    assert made[0].serial == made[1].serial
    with engine.connect() as connection:
        assert connection.scalars(sa.select(certificates.c.serial)).all() == [made[0].serial]
    engine.dispose()


def test_secrets_are_read_with_the_rights_of_a_worker(vault: VaultServer) -> None:
    values = {"user": "joe", "pass": "wrong horse"}
    vault.client.secrets.kv.v2.create_or_update_secret("ntppool/test/database", values, mount_point="kv")
    found = secrets.database_secret("test", files=())
    assert (found.user, found.password) == ("joe", "wrong horse")
    with pytest.raises(secrets.SecretUnavailable, match="permission denied"):
        secrets.from_vault("prod", "database")

"""Test ``ntppool-monitor ca``: roots, servers' certificates, revocation, and one clear line for every error."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.engine import URL, Engine

from auth.ca.files import FileAuthority
from auth.ca.request import new_key
from auth.certificates import issue_to_monitor
from ops.__main__ import main
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from testbed.fixtures.certificates import leaf_of, names_of, verified
from testbed.fixtures.vault_pki import TOKEN, FakePki, fake_pki
from testbed.fixtures.world import add_monitor, monitor_name

NAME = monitor_name("ca1-x")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(URL.create("sqlite", database=str(tmp_path / "ledger.db")))
    upgrade(engine)
    with engine.begin() as connection:
        add_monitor(connection, NAME)
        add_monitor(connection, NAME, "v6")
    yield engine
    engine.dispose()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, ledger: Engine) -> Run:
    """Return a function that runs a command, and returns exit code, stdout and stderr."""
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "CA", "CA_DIRECTORY", "CA_CRL_FILE", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_DSN", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("DEPLOYMENT_MODE", "devel")

    def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = main(["ca", *arguments])
        written = capfd.readouterr()
        assert "PRIVATE KEY" not in written.out + written.err
        return code, written.out, written.err

    return run


def done(result: tuple[int, str, str]) -> str:
    assert result[0] == 0, result
    return result[1]


def failed(result: tuple[int, str, str], code: int = 1) -> str:
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].count("\n") == 1
    return result[2]


def authority(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "state" / "devel" / "ca", "devel")


def issue(ledger: Engine, tmp_path: Path) -> str:
    """Issue a certificate to the monitor, and return its serial."""
    request, now = new_key().request, datetime.now(UTC)
    return issue_to_monitor(ledger, authority(tmp_path), request, NAME, now, timedelta(days=90)).serial


# ---- roots -----------------------------------------------------------------------------------------------------------


def test_init_makes_a_root_in_the_state_directory(run: Run, tmp_path: Path) -> None:
    said = done(run("init"))
    root = authority(tmp_path).roots()[0]
    assert root.fingerprint in said
    assert str(tmp_path / "state" / "devel" / "ca") in said
    assert root.certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=7299)
    [shown] = json.loads(done(run("show", "--json")))
    assert (shown["fingerprint"], shown["state"], shown["root"]) == (root.fingerprint, "signs", 1)
    assert done(run("show", "--bundle")) == authority(tmp_path).bundle()


def test_second_init_is_refused(run: Run, tmp_path: Path) -> None:
    done(run("init", CA_DIRECTORY=str(tmp_path / "elsewhere")))
    assert "exists already" in failed(run("init"))


def test_commands_before_init_say_so(run: Run) -> None:
    for arguments in (["show"], ["show", "--bundle"], ["renew"], ["crl", "x"]):
        assert "run 'ntppool-monitor ca init'" in failed(run(*arguments))


def test_exposed_key_is_refused(run: Run, tmp_path: Path) -> None:
    done(run("init"))
    next((tmp_path / "state" / "devel" / "ca").iterdir()).chmod(0o644)
    assert "its mode is 0644; run 'chmod go=" in failed(run("show"))


def test_renewed_root_signs_later_or_at_once(run: Run) -> None:
    done(run("init"))
    done(run("renew"))
    assert [root["state"] for root in json.loads(done(run("show", "--json")))] == ["next", "signs"]
    done(run("renew", "--at-once"))
    assert [root["state"] for root in json.loads(done(run("show", "--json")))] == ["signs", "former", "former"]


# ---- servers ---------------------------------------------------------------------------------------------------------


def test_server_gets_a_private_key_and_a_valid_certificate(run: Run, tmp_path: Path) -> None:
    done(run("init"))
    before = os.umask(0)
    try:
        said = done(run("issue-server", "mqtt.example", "192.0.2.1", "--cert", "cert.pem", "--key", "key.pem"))
    finally:
        os.umask(before)
    chain, key = (tmp_path / "cert.pem").read_text(), (tmp_path / "key.pem").read_bytes()
    leaf = leaf_of(chain)
    private = load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key() == leaf.public_key()
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "cert.pem").stat().st_mode & 0o777 == 0o644
    assert names_of(leaf) == ["mqtt.example", "192.0.2.1"]
    bundle = authority(tmp_path).bundle()
    assert verified(tmp_path, chain, bundle, "-purpose", "sslserver", "-verify_hostname", "mqtt.example") == ""
    serial = format(leaf.serial_number, "x")
    assert serial in said
    [shown] = json.loads(done(run("show", "mqtt.example", "--json")))
    assert (shown["serial"], shown["kind"], shown["state"]) == (serial, "server", "valid")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["*.example", "--cert", "c", "--key", "k"], "must be a DNS name"),
        (["a.example", "--cert", "c", "--key", "c"], "must be two files"),
        (["a.example", "--cert", "c", "--key", "./c"], "must be two files"),
        (["a.example", "--cert", "c", "--key", "k", "--days", "999"], "--days"),
        (["a.example", "--cert", "c"], "--key"),
    ],
)
def test_invalid_arguments_are_refused(run: Run, tmp_path: Path, arguments: list[str], why: str) -> None:
    done(run("init"))
    assert why in failed(run("issue-server", *arguments), 2)
    assert not (tmp_path / "c").exists()


def test_files_that_cannot_be_written_are_reported_with_the_serial(run: Run) -> None:
    done(run("init"))
    said = failed(run("issue-server", "a.example", "--cert", "missing/c", "--key", "missing/k"))
    assert "missing" in said
    assert "is issued, but not written" in said


# ---- revocation ------------------------------------------------------------------------------------------------------


def revoked_in(path: Path) -> set[str]:
    return {format(one.serial_number, "x") for one in x509.load_pem_x509_crl(path.read_bytes())}


@pytest.mark.parametrize("name", [NAME, "ca1-x"])
def test_revoked_monitor_is_in_the_list(run: Run, ledger: Engine, tmp_path: Path, name: str) -> None:
    done(run("init"))
    serials = {issue(ledger, tmp_path), issue(ledger, tmp_path)}
    done(run("crl", "crl.pem"))
    assert revoked_in(tmp_path / "crl.pem") == set()
    code, said, error = run("revoke", name)
    assert code == 0
    assert all(serial in said for serial in serials)
    assert "run 'ca crl FILE'" in error
    assert "2 revoked" in done(run("crl", "crl.pem"))
    assert revoked_in(tmp_path / "crl.pem") == serials
    assert (tmp_path / "crl.pem").stat().st_mode & 0o777 == 0o644
    assert {one["state"] for one in json.loads(done(run("show", name, "--json")))} == {"revoked"}
    text = subprocess.run(
        ["openssl", "crl", "-noout", "-text", "-in", "crl.pem"], capture_output=True, text=True, check=True
    ).stdout
    assert text.count("Serial Number:") == 2


def test_list_is_written_with_the_revocation_if_its_file_is_set(run: Run, ledger: Engine, tmp_path: Path) -> None:
    done(run("init"))
    first, second = issue(ledger, tmp_path), issue(ledger, tmp_path)
    colons = ":".join(first[n : n + 2] for n in range(0, len(first), 2)).upper()
    done(run("revoke", "--serial", colons, CA_CRL_FILE=str(tmp_path / "list.pem")))
    assert revoked_in(tmp_path / "list.pem") == {first}
    done(run("revoke", NAME))
    assert revoked_in(tmp_path / "list.pem") == {first, second}
    assert "already revoked" in done(run("revoke", "--serial", first))
    assert "no certificate was valid" in done(run("revoke", NAME))


def test_certificates_of_a_deleted_monitor_are_revoked_with_its_last_protocol(
    run: Run, ledger: Engine, tmp_path: Path
) -> None:
    done(run("init"))
    serial = issue(ledger, tmp_path)
    assert main(["monitors", "delete", "ca1-x/v4", "--yes"]) == 0
    done(run("crl", "crl.pem"))
    assert revoked_in(tmp_path / "crl.pem") == set()
    assert main(["monitors", "delete", "ca1-x/v6", "--yes"]) == 0
    done(run("crl", "crl.pem"))
    assert revoked_in(tmp_path / "crl.pem") == {serial}


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["revoke"], 2, "give a monitor's name or --serial"),
        (["revoke", NAME, "--serial", "ab"], 2, "give a monitor's name or --serial"),
        (["revoke", "--serial", "no serial"], 2, "hexadecimal digits"),
        (["revoke", "--serial", "abcdef"], 1, "no certificate has it"),
        (["revoke", "nobody"], 1, "has no certificate"),
        (["show", "nobody"], 1, "no certificate has this serial or name"),
        (["show", "abcdef"], 1, "no certificate has this serial or name"),
        (["show", "--bundle", "--json"], 2, "--bundle"),
        (["crl"], 2, "needs a FILE"),
        (["crl", "missing/crl.pem"], 1, "missing"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], code: int, why: str) -> None:
    done(run("init"))
    assert why in failed(run(*arguments), code)


# ---- Vault -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePki]:
    with fake_pki("devel") as server:
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield server


def test_ca_in_vault_signs_and_lists(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    settings: dict[str, Any] = {"CA": "vault", "CA_CRL_FILE": str(tmp_path / "crl.pem")}
    assert "are in Vault" in failed(run("init", **settings))
    vault: FakePki = request.getfixturevalue("vault")
    done(run("issue-server", "mqtt.example", "--cert", "cert.pem", "--key", "key.pem"))
    [serial] = vault.issued
    assert format(leaf_of((tmp_path / "cert.pem").read_text()).serial_number, "x") == serial
    done(run("revoke", "--serial", serial))
    assert list(vault.revoked) == [serial]
    assert revoked_in(tmp_path / "crl.pem") == {serial}
    assert "BEGIN CERTIFICATE" in done(run("show", "--bundle"))
    for command in ("init", "renew", "show"):
        assert "are in Vault" in failed(run(command))

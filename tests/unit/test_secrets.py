"""Secrets: from database.yaml or Vault, with complaints that name the place and keep the secret."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime import secrets
from runtime.secrets import DatabaseSecret, SecretUnavailable, database_secret, from_vault

TOKEN = "hvs.of-the-test"


@pytest.fixture(autouse=True)
def _no_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VAULT_ADDR", "VAULT_CACERT", "VAULT_TOKEN", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", tmp_path / "no token here")


# ---- database.yaml -------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str | bytes) -> DatabaseSecret:
    path = tmp_path / "database.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return database_secret("test", files=(tmp_path / "missing.yaml", path))


def test_a_user_with_a_password_or_a_whole_dsn(tmp_path: Path) -> None:
    found = read(tmp_path, 'mysql:\n  user: ntppool\n  pass: "p@ss: #1"\n  other: 1\n')
    assert (found.user, found.password, found.dsn) == ("ntppool", "p@ss: #1", None)
    assert read(tmp_path, 'mysql: {dsn: "u:p@tcp(db)/ntppool"}').dsn == "u:p@tcp(db)/ntppool"


def test_the_first_file_that_is_there_is_taken(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"mysql: {{user: {name}}}")
    assert database_secret("test", files=(tmp_path / "none", tmp_path / "two", tmp_path / "one")).user == "two"


def test_without_a_file_and_without_vault_there_is_nothing(tmp_path: Path) -> None:
    assert database_secret("test", files=(tmp_path / "none",)) == DatabaseSecret()


def test_a_secret_never_shows_itself(tmp_path: Path) -> None:
    found = read(tmp_path, "mysql: {user: ntppool, pass: hunter2}")
    assert "hunter2" not in f"{found} {found!r} {[found]}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a mapping with the key 'mysql'"),
        ("just a hunter2", "must be a mapping with the key 'mysql'"),
        ("other: {}", "'mysql' must be a mapping of user, pass or dsn"),
        ("mysql: hunter2", "'mysql' must be a mapping of user, pass or dsn"),
        ("mysql: {user: ntppool, pass: 12345}", "'pass' must be a string, quote it"),
        ("mysql: {pass: [hunter2]}", "'pass' must be a string, quote it"),
        ("mysql:\n  pass: hunter2\n pass2: 'hunter2", "is no YAML in line"),
        ("mysql: {pass: %hunter2}", "is no YAML in line 1"),
        ("mysql: {pass: !!python/name:os.system hunter2}", "is no YAML in line 1"),
        ("mysql: {pass: hunter2\x01}", "is no YAML"),
        ("mysql: {pass: 2026-13-99}", "cannot be read as YAML; quote its values"),
        ("[" * 5_000, "cannot be read as YAML"),
        (b"mysql: {pass: hunter2\xff}", "can't decode byte"),
    ],
)
def test_a_broken_file_is_named_but_not_shown(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(SecretUnavailable, match=complaint) as refusal:
        read(tmp_path, text)
    assert str(tmp_path / "database.yaml") in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    cause = refusal.value.__cause__
    assert cause is None or isinstance(cause, UnicodeDecodeError), "a traceback would show the file"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="Is a directory"):
        database_secret("test", files=(tmp_path,))


# ---- Vault ---------------------------------------------------------------------------------------------------------


class FakeVault(ThreadingHTTPServer):
    """Speaks as much of Vault's KV version 2 as we use."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _FakeVaultHandler)
        self.secrets: dict[str, Any] = {}
        self.raw: bytes | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _FakeVaultHandler(BaseHTTPRequestHandler):
    server: FakeVault

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1/kv/data/")
        if self.headers.get("X-Vault-Token") != TOKEN:
            self._answer(403, {"errors": ["permission denied"]})
        elif self.server.raw is not None:
            self._answer(200, self.server.raw)
        elif path in self.server.secrets:
            self._answer(200, {"data": {"data": self.server.secrets[path], "metadata": {"version": 3}}})
        else:
            self._answer(404, {"errors": []})

    def _answer(self, status: int, body: Any) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVault]:
    with FakeVault() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


def test_without_an_address_there_is_no_vault() -> None:
    assert from_vault("test", "jwt") is None


def test_a_secret_of_vault_is_that_of_its_environment(vault: FakeVault) -> None:
    vault.secrets["ntppool/test/jwt"] = {"key": "of test"}
    vault.secrets["ntppool/prod/jwt"] = {"key": "of prod"}
    assert from_vault("prod", "jwt") == {"key": "of prod"}


def test_the_database_may_be_in_vault_but_a_file_wins(vault: FakeVault, tmp_path: Path) -> None:
    vault.secrets["ntppool/test/database"] = {"user": "vault", "pass": "hunter2"}
    found = database_secret("test", files=())
    assert (found.user, found.password) == ("vault", "hunter2")
    assert read(tmp_path, "mysql: {user: file}").user == "file"


def test_the_token_of_a_file_wins(vault: FakeVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vault.secrets["ntppool/test/jwt"] = {"key": "k"}
    monkeypatch.setenv("VAULT_TOKEN", "outdated")
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", path)
    assert from_vault("test", "jwt") == {"key": "k"}


def test_what_vault_does_not_give_is_named_without_its_token(vault: FakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SecretUnavailable, match=rf"{vault.address}: cannot read kv/ntppool/test/jwt"):
        from_vault("test", "jwt")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.wrong")
    with pytest.raises(SecretUnavailable, match="permission denied") as refusal:
        from_vault("test", "jwt")
    assert "hvs.wrong" not in str(refusal.value)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"data":null}', b'{"data":{"data":"text"}}'])
def test_a_vault_that_talks_nonsense(vault: FakeVault, raw: bytes) -> None:
    vault.raw = raw
    with pytest.raises(SecretUnavailable, match="kv/ntppool/test/jwt"):
        from_vault("test", "jwt")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "nowhere", "http://[", "ftp://127.0.0.1"])
def test_a_vault_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("VAULT_ADDR", address)
    with pytest.raises(SecretUnavailable, match="Vault at"):
        from_vault("test", "jwt")


def test_a_ca_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://127.0.0.1:1")
    monkeypatch.setenv("VAULT_CACERT", str(tmp_path / "none.pem"))
    with pytest.raises(SecretUnavailable, match=r"none\.pem"):
        from_vault("test", "jwt")

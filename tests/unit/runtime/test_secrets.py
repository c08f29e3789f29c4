"""Test secrets: from database.yaml or Vault, with errors that name the source but not the secret."""

import json
import logging
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime import log, secrets
from runtime.secrets import DatabaseSecret, SecretUnavailable, database_secret, from_vault
from testbed.tls import LocalCa

TOKEN = "hvs.of-the-test"


@pytest.fixture(autouse=True)
def _no_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VAULT_ADDR", "VAULT_CACERT", "VAULT_TOKEN", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", tmp_path / "no token here")
    secrets._warn_once.cache_clear()


# ---- database.yaml -------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str | bytes) -> DatabaseSecret:
    path = tmp_path / "database.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return database_secret("test", files=(tmp_path / "missing.yaml", path))


def test_file_has_user_and_password_or_a_whole_dsn(tmp_path: Path) -> None:
    found = read(tmp_path, 'mysql:\n  user: ntppool\n  pass: "p@ss: #1"\n  other: 1\n')
    assert (found.user, found.password, found.dsn) == ("ntppool", "p@ss: #1", None)
    assert read(tmp_path, 'mysql: {dsn: "u:p@tcp(db)/ntppool"}').dsn == "u:p@tcp(db)/ntppool"


def test_first_existing_file_is_used(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"mysql: {{user: {name}}}")
    assert database_secret("test", files=(tmp_path / "none", tmp_path / "two", tmp_path / "one")).user == "two"


def test_secret_is_empty_without_a_file_and_without_vault(tmp_path: Path) -> None:
    assert database_secret("test", files=(tmp_path / "none",)) == DatabaseSecret()


def test_repr_does_not_show_the_password(tmp_path: Path) -> None:
    found = read(tmp_path, "mysql: {user: ntppool, pass: hunter2}")
    assert "hunter2" not in f"{found} {found!r} {[found]}"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "must be a mapping with the key 'mysql'"),
        ("just a hunter2", "must be a mapping with the key 'mysql'"),
        ("other: {}", "'mysql' must be a mapping of user, pass or dsn"),
        ("mysql: hunter2", "'mysql' must be a mapping of user, pass or dsn"),
        ("mysql: {user: ntppool, pass: 12345}", "'pass' must be a string, quote it"),
        ("mysql: {pass: [hunter2]}", "'pass' must be a string, quote it"),
        ("mysql:\n  pass: hunter2\n pass2: 'hunter2", "is not YAML in line"),
        ("mysql: {pass: %hunter2}", "is not YAML in line 1"),
        ("mysql: {pass: !!python/name:os.system hunter2}", "is not YAML in line 1"),
        ("mysql: {pass: hunter2\x01}", "is not YAML"),
        ("mysql: {pass: 2026-13-99}", "cannot be read as YAML; quote its values"),
        ("[" * 1_000, "cannot be read as YAML"),
        (b"mysql: {pass: hunter2\xff}", "can't decode byte"),
    ],
)
def test_invalid_file_is_named_but_its_content_is_not_shown(tmp_path: Path, text: str | bytes, warning: str) -> None:
    with pytest.raises(SecretUnavailable, match=warning) as refusal:
        read(tmp_path, text)
    assert str(tmp_path / "database.yaml") in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    cause = refusal.value.__cause__
    assert cause is None or isinstance(cause, UnicodeDecodeError), "a traceback would show the file"


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="Is a directory"):
        database_secret("test", files=(tmp_path,))


# ---- Vault ---------------------------------------------------------------------------------------------------------


class FakeVault(ThreadingHTTPServer):
    """Fake server with the part of Vault's KV version 2 that we use."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _FakeVaultHandler)
        self.secrets: dict[str, Any] = {}
        self.raw: bytes | None = None
        self.status = 200
        self.redirect: str | None = None
        self.tokens: list[str | None] = []
        """The token of each request."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _FakeVaultHandler(BaseHTTPRequestHandler):
    server: FakeVault

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1/kv/data/")
        self.server.tokens.append(self.headers.get("X-Vault-Token"))
        if self.server.redirect is not None:
            self.send_response(307)
            self.send_header("Location", self.server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.headers.get("X-Vault-Token") != TOKEN:
            self._answer(403, {"errors": ["permission denied"]})
        elif self.server.raw is not None:
            self._answer(self.server.status, self.server.raw)
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
        """Log nothing."""


@contextmanager
def serving() -> Iterator[FakeVault]:
    with FakeVault() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVault]:
    with serving() as server:
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield server


@pytest.fixture
def other() -> Iterator[FakeVault]:
    """A server on another host, which must never receive the token."""
    with serving() as server:
        server.raw = b'{"data": {"data": {"key": "of somebody else"}}}'
        yield server


def test_vault_is_not_used_without_an_address() -> None:
    assert from_vault("test", "jwt") is None


def test_vault_secret_is_read_for_the_given_environment(vault: FakeVault) -> None:
    vault.secrets["ntppool/test/jwt"] = {"key": "of test"}
    vault.secrets["ntppool/prod/jwt"] = {"key": "of prod"}
    assert from_vault("prod", "jwt") == {"key": "of prod"}


def test_database_secret_comes_from_vault_unless_there_is_a_file(vault: FakeVault, tmp_path: Path) -> None:
    vault.secrets["ntppool/test/database"] = {"user": "vault", "pass": "hunter2"}
    found = database_secret("test", files=())
    assert (found.user, found.password) == ("vault", "hunter2")
    assert read(tmp_path, "mysql: {user: file}").user == "file"


def test_token_file_takes_precedence_over_the_variable(
    vault: FakeVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vault.secrets["ntppool/test/jwt"] = {"key": "k"}
    monkeypatch.setenv("VAULT_TOKEN", "outdated")
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", path)
    assert from_vault("test", "jwt") == {"key": "k"}


def test_missing_or_denied_secret_is_named_without_the_token(vault: FakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SecretUnavailable, match=rf"{vault.address}: cannot read kv/ntppool/test/jwt"):
        from_vault("test", "jwt")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.wrong")
    with pytest.raises(SecretUnavailable, match="permission denied") as refusal:
        from_vault("test", "jwt")
    assert "hvs.wrong" not in str(refusal.value)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"data":null}', b'{"data":{"data":"text"}}'])
def test_invalid_vault_response_is_an_error(vault: FakeVault, raw: bytes) -> None:
    vault.raw = raw
    with pytest.raises(SecretUnavailable, match="kv/ntppool/test/jwt"):
        from_vault("test", "jwt")


def test_unreachable_vault_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    with pytest.raises(SecretUnavailable, match=r"^Vault at http://127\.0\.0\.1:1: cannot read kv/ntppool/test/jwt: "):
        from_vault("test", "jwt")


@pytest.mark.parametrize(
    "address",
    [
        "nowhere",
        "http://[",
        "ftp://127.0.0.1",
        "https://",
        "https://somebody:hunter2@vault.example",
        "https://hunter2@vault.example",
        "https://vault.example/?token=hunter2",
        "https://vault.example/#hunter2",
        "hunter2",
        "https://127.0.0.1\\@vault.example",
        "https://vault.example\n",
    ],
)
def test_invalid_vault_address_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("VAULT_ADDR", address)
    with pytest.raises(
        SecretUnavailable, match=r"^VAULT_ADDR: must be an address such as https://vault\.example:8200,"
    ):
        from_vault("test", "jwt")


@pytest.mark.parametrize("host", ["vault.example", "192.0.2.1:8200", "localhost.example", "[2001:db8::1]", "0.0.0.0"])
def test_plain_http_is_for_loopback_only(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connects"))
    monkeypatch.setenv("VAULT_ADDR", f"http://{host}")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with pytest.raises(SecretUnavailable, match=r"^VAULT_ADDR=http://\S+: must begin with https://"):
        from_vault("test", "jwt")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_local_vault_agent_may_use_plain_http(vault: FakeVault, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    real = socket.getaddrinfo
    # A minimal system has no /etc/hosts.
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda name, *args: real("127.0.0.1" if name == "localhost" else name, *args)
    )
    vault.secrets["ntppool/test/jwt"] = {"key": "k"}
    monkeypatch.setenv("VAULT_ADDR", f"http://{host}:{vault.server_address[1]}")
    assert from_vault("test", "jwt") == {"key": "k"}


def test_redirect_is_not_followed_with_the_token(vault: FakeVault, other: FakeVault) -> None:
    vault.redirect = f"{other.address}/v1/kv/data/ntppool/test/jwt"
    with pytest.raises(SecretUnavailable, match=r"answers with a redirect \(HTTP 307\), which is not followed"):
        from_vault("test", "jwt")
    assert (vault.tokens, other.tokens) == ([TOKEN], [])


def test_plain_http_ignores_proxy_settings(vault: FakeVault, other: FakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    vault.secrets["ntppool/test/jwt"] = {"key": "k"}
    assert from_vault("test", "jwt") == {"key": "k"}
    assert other.tokens == []


def test_token_in_the_home_directory_is_not_used(
    vault: FakeVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".vault-token").write_text("of somebody who logged in here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(SecretUnavailable, match="permission denied"):
        from_vault("test", "jwt")
    assert vault.tokens == [None]


@pytest.mark.parametrize(
    "token", ["hvs.hunter2\nX-Other: 1", "hvs.hunter2 ", "hvs.h\N{EURO SIGN}nter2", " hvs.hun ter2"]
)
def test_invalid_token_is_not_shown(vault: FakeVault, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("VAULT_TOKEN", token)
    with pytest.raises(SecretUnavailable) as refusal:
        from_vault("test", "jwt")
    assert "nter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None and refusal.value.__suppress_context__ | (refusal.value.__context__ is None)


def test_token_echoed_in_a_vault_error_is_not_shown(vault: FakeVault) -> None:
    vault.status = 500
    vault.raw = json.dumps({"errors": [f"you said {TOKEN}\n\x1b[2J" + "x" * 5_000]}).encode()
    with pytest.raises(SecretUnavailable, match=r"you said \.\.\.") as refusal:
        from_vault("test", "jwt")
    assert TOKEN not in str(refusal.value)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 600


@pytest.mark.parametrize("raw", [b"[]", b"[1]", b"null", b"{", b'"text"', b'{"errors": 1}'])
def test_malformed_vault_error_is_reported_as_unavailable(vault: FakeVault, raw: bytes) -> None:
    vault.status, vault.raw = 500, raw
    with pytest.raises(SecretUnavailable, match="cannot read kv/ntppool/test/jwt: "):
        from_vault("test", "jwt")


def test_missing_ca_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://127.0.0.1:1")
    monkeypatch.setenv("VAULT_CACERT", str(tmp_path / "none.pem"))
    with pytest.raises(SecretUnavailable, match=r"none\.pem"):
        from_vault("test", "jwt")


def test_vault_must_present_a_certificate_of_the_ca(
    vault: FakeVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca = LocalCa()
    issued = ca.issue("127.0.0.1")
    for file, text in (("ca.pem", ca.certificate), ("cert.pem", issued.certificate), ("key.pem", issued.key)):
        (tmp_path / file).write_text(text)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    vault.socket = tls.wrap_socket(vault.socket, server_side=True)
    vault.secrets["ntppool/test/jwt"] = {"key": "k"}
    monkeypatch.setenv("VAULT_ADDR", f"https://127.0.0.1:{vault.server_address[1]}")
    with pytest.raises(SecretUnavailable, match="certificate verify failed"):
        from_vault("test", "jwt")
    assert vault.tokens == []
    monkeypatch.setenv("VAULT_CACERT", str(tmp_path / "ca.pem"))
    assert from_vault("test", "jwt") == {"key": "k"}


def test_silent_vault_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert secrets._VAULT_TIMEOUT == 10
    monkeypatch.setattr(secrets, "_VAULT_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SecretUnavailable, match=r"read timeout=0\.2"):
            from_vault("test", "jwt")


def test_vault_token_is_masked_in_logs(vault: FakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_kept_out", set())
    monkeypatch.setenv("VAULT_TOKEN", "of-an-older-form")
    with pytest.raises(SecretUnavailable, match="permission denied"):
        from_vault("test", "jwt")
    assert log.without_secrets("/of-an-older-form/") == "/[secret]/"


# ---- world-readable files ------------------------------------------------------------------------------------------


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are private to their owner."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.parametrize(
    ("mode", "rights"),
    [(0o644, "read"), (0o666, "read and change"), (0o602, "change"), (0o640, None), (0o600, None), (0o660, None)],
)
def test_world_accessible_file_is_warned_about_once(
    open_path: Path, caplog: pytest.LogCaptureFixture, mode: int, rights: str | None
) -> None:
    (open_path / "database.yaml").touch(mode=0o600)
    (open_path / "database.yaml").write_text("mysql: {user: ntppool}")
    (open_path / "database.yaml").chmod(mode)
    for _ in range(2):
        assert database_secret("test", files=(open_path / "database.yaml",)).user == "ntppool", (
            "it is used all the same"
        )
    path = open_path / "database.yaml"
    said = f"{path}: holds a secret, and all users of this machine may {rights} it; run 'chmod o= {path}'"
    assert [record.getMessage() for record in caplog.records] == ([] if rights is None else [said])
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_open_file_in_a_private_directory_causes_no_warning(open_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    closed = open_path / "closed"
    closed.mkdir()
    (closed / "key").touch(mode=0o666)
    (open_path / "link").symlink_to(closed / "key")
    closed.chmod(0o750)
    secrets.warn_of_exposed(open_path / "link")
    assert caplog.records == []
    closed.chmod(0o751)
    secrets.warn_of_exposed(open_path / "link")
    assert len(caplog.records) == 1, "a link leads there"


def test_world_readable_token_file_is_warned_about(
    vault: FakeVault, monkeypatch: pytest.MonkeyPatch, open_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = open_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", path)
    vault.secrets["ntppool/test/jwt"] = {"key": "k"}
    from_vault("test", "jwt")
    assert re.search(rf"{path}: holds a secret, and all users of this machine may read it", caplog.text)

"""Test a worker's settings: defaults, precedence, and an error for every invalid one."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agent.settings import load_settings as load_agent_settings
from runtime import log, secrets
from runtime.mqtt.types import BrokerAddress
from runtime.settings import (
    ConfigurationError,
    WorkerSettings,
    load_settings,
    operator_entries,
    server_state_directory,
)

SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {name.upper() for name in WorkerSettings.model_fields} | {"STATE_DIRECTORY", "XDG_DATA_HOME", "VAULT_ADDR"}
    for name in os.environ.keys() & names:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where database.yaml is searched for
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", tmp_path / "no token here")


def warning(**given: Any) -> str:
    with pytest.raises(ConfigurationError) as refusal:
        load_settings(**given)
    assert refusal.value.__cause__ is None
    return str(refusal.value)


# ---- reading -------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.deployment_mode, settings.log_level, settings.log_scores_days) == ("prod", "info", None)
    assert settings.broker_address() == BrokerAddress("localhost", 1883)
    assert (settings.metrics_address, settings.metrics_port) == ("127.0.0.1", None), (
        "nothing is shown to others unasked"
    )


def test_arguments_override_the_environment_and_empty_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYMENT_MODE", "test")
    monkeypatch.setenv("MQTT_PORT", "")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    settings = load_settings(log_level="error", deployment_mode=None)
    assert (settings.deployment_mode, settings.log_level, settings.mqtt_port) == ("test", "error", None)


@pytest.mark.parametrize(("given", "level"), [("warn", "warning"), ("WARNING", "warning"), ("Info", "info")])
def test_common_spellings_of_log_levels_are_accepted(given: str, level: str) -> None:
    assert load_settings(log_level=given).log_level == level


def test_agents_and_workers_default_to_the_same_environment(tmp_path: Path) -> None:
    (tmp_path / "defaults").touch()
    agent = load_agent_settings({"MONITOR_DEFAULTS_FILE": str(tmp_path / "defaults")}, {})
    assert (agent.env, load_settings().deployment_mode) == ("prod", "prod")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().log_level = "debug"


def test_settings_show_no_secret() -> None:
    settings = load_settings(jwt_key=SECRET, database_dsn=f"u:{SECRET}@tcp(db)/ntppool")
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


# ---- pages ---------------------------------------------------------------------------------------------------------


def test_login_at_a_provider_is_complete_or_unset(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    given = {"oidc_issuer": "https://login.example", "oidc_client_id": "pages"}
    settings = load_settings(**given, oidc_client_secret_file=tmp_path / "secret")
    assert settings.oidc_secret_text() == load_settings(**given, oidc_client_secret=SECRET).oidc_secret_text() == SECRET
    assert "set all of them, or none" in warning(**given)
    assert "set all of them, or none" in warning(oidc_client_secret=SECRET)
    assert SECRET not in warning(oidc_client_secret_file=SECRET)
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ConfigurationError, match="OIDC_CLIENT_SECRET_FILE"):
        load_settings(**given, oidc_client_secret_file=tmp_path / "secret").oidc_secret_text()


@pytest.mark.parametrize(
    "issuer", ["https://login.example", "https://login.example/realms/pool/", "http://127.0.0.1:80"]
)
def test_issuer_is_kept_as_it_is(issuer: str) -> None:
    assert load_settings(oidc_issuer=issuer, oidc_client_id="x", oidc_client_secret="y").oidc_issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "http://login.example",
        "login.example",
        "https://",
        "https://u:p@login.example",
        "https://x?y",
        "https://[",
        "ftp://x",
    ],
)
def test_issuer_is_an_https_url(issuer: str) -> None:
    assert "OIDC_ISSUER: " in warning(oidc_issuer=issuer, oidc_client_id="x", oidc_client_secret="y")


def test_operators_are_addresses_subjects_or_accounts() -> None:
    text = " anna@example.org,subject:248289761001 , account:4xhq2c9,"
    assert operator_entries(load_settings(api_operators=text).api_operators) == [
        *("anna@example.org", "subject:248289761001", "account:4xhq2c9"),
    ]
    for wrong in ("anna", "account:", "user:1", "anna @example.org", "*"):
        assert warning(api_operators=wrong).startswith(f"API_OPERATORS={wrong}: ")


# ---- invalid settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DEPLOYMENT_MODE", "production", "'prod', 'test' or 'devel'"),
        ("LOG_LEVEL", "LOUD", "'debug', 'info', 'warning' or 'error'"),
        ("MQTT_PORT", "mqtt", "valid integer"),
        ("MQTT_PORT", "0", "greater than or equal to 1"),
        ("MQTT_PORT", "65536", "less than or equal to 65535"),
        ("MQTT_CA_FILE", "/nowhere/ca.pem", "is not a readable file"),
        ("MQTT_CERT_FILE", "/nowhere/cert.pem", "is not a readable file"),
        ("MQTT_KEY_FILE", "/tmp", "is not a readable file"),
        ("METRICS_PORT", "-1", "greater than or equal to 1"),
        ("LOG_SCORES_DAYS", "1", "greater than or equal to 2"),
        ("LOG_SCORES_DAYS", "x", "valid integer"),
    ],
)
def test_invalid_setting_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    text = warning()
    assert text.startswith(f"{name}={value}: ")
    assert says in text


def test_all_invalid_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PORT", "x")
    monkeypatch.setenv("LOG_LEVEL", "y")
    assert [line.partition("=")[0] for line in warning(deployment_mode="z").splitlines()] == [
        "DEPLOYMENT_MODE",
        "LOG_LEVEL",
        "MQTT_PORT",
    ]


@pytest.mark.parametrize("host", ["broker.example", "127.evil.example", "10.0.0.1", "::", "0.0.0.0", "localhost."])
def test_plain_tcp_is_for_loopback_only(host: str) -> None:
    assert warning(mqtt_host=host) == f"MQTT_CA_FILE: needed for {host}, since plain TCP is for loopback only"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "::1"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert load_settings(mqtt_host=host).broker_address() == BrokerAddress(host, 1883)


def test_tls_has_its_own_port_and_a_certificate_needs_all_files(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca", "cert", "key")}
    for path in files.values():
        path.touch()
    everything = {f"mqtt_{name}_file": path for name, path in files.items()}
    address = load_settings(mqtt_host="broker.example", **everything).broker_address()
    assert address == BrokerAddress("broker.example", 8883, files["ca"], files["cert"], files["key"])
    for missing in ("cert", "key"):
        partly = {name: path for name, path in everything.items() if name != f"mqtt_{missing}_file"}
        assert warning(**partly) == "MQTT_CERT_FILE, MQTT_KEY_FILE: set both, or none"
    assert "MQTT_CA_FILE: needed with MQTT_CERT_FILE" in warning(
        mqtt_cert_file=files["cert"], mqtt_key_file=files["key"]
    )


# ---- the key -------------------------------------------------------------------------------------------------------


def test_key_setting_takes_precedence_over_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "jwt.pem"
    path.write_text("of the file\n")
    assert load_settings(jwt_key="of the setting", jwt_key_file=path).jwt_key_text() == "of the setting"
    assert load_settings(jwt_key_file=path).jwt_key_text() == "of the file\n"


def test_missing_key_is_an_error_that_names_both_settings() -> None:
    with pytest.raises(ConfigurationError, match="JWT_KEY or JWT_KEY_FILE: must be set"):
        load_settings().jwt_key_text()


def test_key_given_as_key_file_is_not_shown() -> None:
    assert warning(jwt_key_file=SECRET) == "JWT_KEY_FILE: is not a readable file"


def test_certificate_key_given_as_key_file_is_masked() -> None:
    said = warning(mqtt_cert_file=__file__, mqtt_ca_file=__file__, mqtt_key_file=f"-----BEGIN PRIVATE KEY-----{SECRET}")
    assert "MQTT_KEY_FILE=[secret]: is not a readable file" in said and SECRET not in said


@pytest.mark.parametrize("name", ["jwt_key_file", "mqtt_key_file"])
def test_world_readable_key_file_is_warned_about(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        key = Path(directory) / "key"
        key.write_text(SECRET)
        key.chmod(0o644)
        given = {"mqtt_ca_file": key, "mqtt_cert_file": key} if name == "mqtt_key_file" else {}
        load_settings(**{name: key, **given})
        assert f"{key}: holds a secret, and all users of this machine may read it" in caplog.text
        caplog.clear()
        key.chmod(0o640)
        load_settings(**{name: key, **given})
        assert caplog.text == ""


def test_key_and_password_are_masked_in_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_kept_out", set())
    load_settings(jwt_key=SECRET).jwt_key_text()
    assert log.without_secrets(f"/{SECRET}/") == "/[secret]/"
    load_settings(database_dsn="u:another-pass@word@tcp(db)/ntppool").database_url()
    assert log.without_secrets("of another-pass@word.") == "of [secret]."


def test_binary_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe" + SECRET.encode())
    with pytest.raises(ConfigurationError, match="JWT_KEY_FILE: cannot be read as text") as refusal:
        load_settings(jwt_key_file=tmp_path / "key").jwt_key_text()
    assert SECRET not in str(refusal.value)


# ---- the database --------------------------------------------------------------------------------------------------


def url(**given: Any) -> str:
    return load_settings(**given).database_url().render_as_string(hide_password=False)


def test_dsn_determines_the_database() -> None:
    assert url(database_dsn="u:p@tcp(db)/ntppool") == "mysql+pymysql://u:p@db:3306/ntppool"


def test_database_defaults_to_a_file_per_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/state:{tmp_path}/other")
    assert url(deployment_mode="test") == f"sqlite:///{tmp_path}/state/test/ledger.db"
    assert (tmp_path / "state/test").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert server_state_directory("prod") == tmp_path / "data/ntppool-monitor/prod"


def test_user_and_password_may_come_from_database_yaml() -> None:
    Path("database.yaml").write_text(f"mysql: {{user: ntppool, pass: {SECRET}}}")
    assert url(database_dsn="tcp(db)/ntppool") == f"mysql+pymysql://ntppool:{SECRET}@db:3306/ntppool"
    assert url(database_dsn="ntppool@tcp(db)/ntppool") == f"mysql+pymysql://ntppool:{SECRET}@db:3306/ntppool"
    assert url(database_dsn="other@tcp(db)/ntppool") == "mysql+pymysql://other@db:3306/ntppool"
    assert url(database_dsn="other:p@tcp(db)/ntppool") == "mysql+pymysql://other:p@db:3306/ntppool"


def test_the_whole_dsn_may_come_from_database_yaml() -> None:
    Path("database.yaml").write_text(f'mysql: {{dsn: "u:p@tcp(db)/ntppool", pass: "{SECRET}"}}')
    assert url() == f"mysql+pymysql://u:{SECRET}@db:3306/ntppool"


@pytest.mark.parametrize(
    ("dsn", "file", "says"),
    [
        (f"postgresql://u:{SECRET}@db/x", None, "DATABASE_DSN: database DSN: is of a kind that is not supported"),
        (f"mysql://u:{SECRET}@db", None, "names no database"),
        (f"u:{SECRET}@db/x", None, "must be mysql://"),
        ("sqlite:////nowhere/at/all.db", None, "/nowhere/at/all.db: its directory does not exist"),
        (None, f"mysql: {{user: u, pass: {SECRET}}}", "database.yaml has a user but no dsn"),
        (None, f"mysql: {SECRET}", "database.yaml: 'mysql' must be a mapping"),
        (None, f"mysql: {{dsn: 'mysql://u:{SECRET}@'}}", "DATABASE_DSN: database DSN: "),
        ("tcp(db)/x", f"mysql: {{pass: '{SECRET}", "database.yaml: is not YAML"),
    ],
)
def test_invalid_database_setting_is_reported_without_the_password(
    dsn: str | None, file: str | None, says: str
) -> None:
    if file is not None:
        Path("database.yaml").write_text(file)
    with pytest.raises(ConfigurationError) as refusal:
        load_settings(database_dsn=dsn).database_url()
    assert says in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_state_directory_that_cannot_be_created_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match=rf"STATE_DIRECTORY: {tmp_path}/file/prod cannot be created"):
        load_settings().database_url()


# ---- the API -------------------------------------------------------------------------------------------------------


def test_the_api_is_on_loopback_by_default_and_tells_agents_the_workers_broker() -> None:
    settings = load_settings()
    assert ([str(one) for one in settings.api_addresses()], settings.api_port) == (["127.0.0.1"], 8086)
    assert (settings.public_url(), settings.trusted_proxies()) == ("http://127.0.0.1:8086", ())
    assert settings.broker_of_agents() == BrokerAddress("localhost", 1883)
    assert load_settings(api_address="::1, 127.0.0.1", api_port=99).public_url() == "http://[::1]:99"
    assert load_settings(api_url="https://api.example/").public_url() == "https://api.example"


def test_agents_may_be_told_another_broker(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    ours.touch()
    theirs.touch()
    told = load_settings(api_broker_host="mqtt.example", api_broker_ca_file=theirs).broker_of_agents()
    assert told == BrokerAddress("mqtt.example", 8883, theirs), "not the port for workers without TLS"
    same = load_settings(mqtt_host="mqtt.example", mqtt_ca_file=ours, mqtt_port=8884, api_broker_port=99)
    assert same.broker_of_agents() == BrokerAddress("mqtt.example", 99, ours)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"api_address": "localhost"}, "API_ADDRESS=localhost: must be addresses"),
        ({"api_address": ""}, "API_ADDRESS=: must be addresses"),
        ({"api_address": "::1,::1"}, "twice"),
        ({"api_address": "0.0.0.0"}, "API_CERT_FILE: needed for API_ADDRESS=0.0.0.0"),
        ({"api_address": "127.0.0.1,192.0.2.1"}, "plain HTTP is for loopback only"),
        ({"api_port": 0}, "API_PORT=0"),
        ({"api_cert_file": os.devnull}, "set both, or none"),
        ({"api_cert_file": os.devnull, "api_key_file": os.devnull, "api_address": "::"}, "API_URL: needed"),
        ({"api_trusted_proxies": "proxy.example"}, "API_TRUSTED_PROXIES=proxy.example: must be addresses or networks"),
        ({"api_trusted_proxies": "10.1.2.3/8"}, "must be addresses or networks"),
        ({"api_url": "https://api.example/path"}, "API_URL=https://api.example/path: must be an address such as"),
        ({"api_url": "https://user:pw@api.example"}, "API_URL="),
        ({"api_broker_host": "mqtt.example"}, "API_BROKER_CA_FILE: needed for mqtt.example"),
    ],
)
def test_invalid_settings_of_the_api_are_named(given: dict[str, Any], says: str) -> None:
    assert says in warning(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"smtp_host": "mail.example"}, "SMTP_FROM: needed with SMTP_HOST"),
        ({"smtp_host": "mail.example", "smtp_from": "a@b", "smtp_security": "plain"}, "plain is for loopback only"),
        ({"smtp_host": "mail.example", "smtp_from": "a@b", "smtp_user": "u"}, "set both, or none"),
        ({"smtp_from": "a@b\r\nBcc: c@d"}, "SMTP_FROM="),
        ({"smtp_from": "Pool"}, "SMTP_FROM=Pool: must be an address"),
        ({"alert_server_url": "https://pool.example/"}, "ALERT_SERVER_URL=https://pool.example/: must be an address"),
        ({"alert_server_url": "javascript:{ip}"}, "ALERT_SERVER_URL="),
        ({"alert_no_results_minutes": 1}, "ALERT_NO_RESULTS_MINUTES=1"),
        ({"alert_database_nodes": "db1 db2"}, "ALERT_DATABASE_NODES=db1 db2: must be hosts"),
        ({"alert_database_nodes": "user:pw@db1"}, "ALERT_DATABASE_NODES="),
    ],
)
def test_invalid_settings_of_alerts_are_named(given: dict[str, Any], says: str) -> None:
    assert says in warning(**given)


def test_the_password_of_the_mail_server_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2hunter2\n")
    path.chmod(0o600)
    settings = load_settings(
        smtp_host="mail.example", smtp_from="NTP Pool <a@b>", smtp_user="u", smtp_password_file=path
    )
    assert settings.smtp_password_text() == "hunter2hunter2"
    assert log.without_secrets("wrong: hunter2hunter2") == "wrong: [secret]"
    assert load_settings().smtp_password_text() is None

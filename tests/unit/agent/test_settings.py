"""Test settings: arguments over environment over the defaults file, and a message about every error."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import AgentSettings, ConfigurationError, base_directory, for_daemon, load_settings
from runtime.mqtt.tls_files import file_stamp


def load(tmp_path: Path, file: str = "", environ: dict[str, str] | None = None, **given: Any) -> AgentSettings:
    path = tmp_path / "defaults"
    path.write_text(file)
    warn = given.pop("warn", None) or pytest.fail
    return load_settings({"MONITOR_DEFAULTS_FILE": str(path), **(environ or {})}, given, warn)


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.env, settings.log_level, settings.ipv4, settings.ipv6) == ("prod", "info", True, True)
    daemon = for_daemon(settings, tmp_path)
    assert (daemon.protocols, daemon.spool_bytes) == (("v4", "v6"), 64 * 1024 * 1024)


def test_arguments_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    file = "DEPLOYMENT_MODE=devel\nMONITOR_LOG_LEVEL=error\nMONITOR_IPV6=no\n"
    environ = {"MONITOR_LOG_LEVEL": "warning", "MONITOR_IPV6": "yes"}
    assert load(tmp_path, file).env == "devel"
    assert load(tmp_path, file).ipv6 is False
    assert load(tmp_path, file, environ).log_level == "warning"
    settings = load(tmp_path, file, environ, log_level="debug", ipv6=False, env=None)
    assert (settings.log_level, settings.ipv6, settings.env) == ("debug", False, "devel")


def test_the_file_may_have_comments_quotes_and_empty_values(tmp_path: Path) -> None:
    file = "# hello\n\n  MONITOR_STATE_DIR=\"/a b\"\nDEPLOYMENT_MODE='test'\nMONITOR_LOG_LEVEL=\nOTHER=1\n"
    settings = load(tmp_path, file)
    assert (settings.state_dir, settings.env, settings.log_level) == (Path("/a b"), "test", "info")


@pytest.mark.parametrize("line", ["export A=1", "A", "=1", "1A=2", "A=b c", 'A="b', "A=$(rm)x y"])
def test_malformed_lines_are_refused_with_file_and_line_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"defaults line 2: .* must be KEY=VALUE"):
        load(tmp_path, f"A=1\n{line}\n")


@given(st.text(max_size=100))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("d")
    try:
        load(path, text.replace("\r", ""), warn=lambda text: None)
    except ConfigurationError as error:
        assert "defaults" in str(error)


def test_all_errors_are_reported_at_once_with_their_origin(tmp_path: Path) -> None:
    environ = {"DEPLOYMENT_MODE": "production", "MONITOR_SPOOL_MEGABYTES": "0", "MONITOR_DEBUG": "perhaps"}
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, "", environ, log_level="loud")
    said = str(refused.value).splitlines()
    assert len(said) == 4
    for words in (
        "DEPLOYMENT_MODE (environment)=production: input should be 'prod', 'test' or 'devel'",
        "MONITOR_SPOOL_MEGABYTES (environment)=0: input should be greater than or equal to 1",
        "MONITOR_DEBUG (environment)=perhaps: input should be a valid boolean",
        "argument for MONITOR_LOG_LEVEL=loud: input should be 'debug', 'info', 'warning' or 'error'",
    ):
        assert words in str(refused.value)


def test_unknown_settings_cause_a_warning_and_are_ignored(tmp_path: Path) -> None:
    warned: list[str] = []
    file = "MONITOR_STAET_DIR=/x\nMONITOR_DEBUG_NTP_QUERIES=true\nMONITOR_IPV4=yes\n"
    settings = load(tmp_path, file, {"MONITOR_IPV8": "1"}, warn=warned.append)
    assert (settings.env, settings.state_dir) == ("prod", None)
    assert len(warned) == 3
    for text, words in (
        ("MONITOR_STAET_DIR", "defaults): is not a setting of this agent and is ignored; did you mean MONITOR_STATE_"),
        ("MONITOR_DEBUG_NTP_QUERIES", "is not a setting of this agent"),
        ("MONITOR_IPV8 (environment)", "did you mean MONITOR_IPV"),
    ):
        assert [line for line in warned if text in line and words in line], (text, warned)


@pytest.mark.parametrize(
    ("level", "meant"),
    [("warn", "warning"), ("WARN", "warning"), ("Warning", "warning"), ("ERROR", "error"), ("Debug", "debug")],
)
def test_other_spellings_of_log_levels_are_accepted(tmp_path: Path, level: str, meant: str) -> None:
    assert load(tmp_path, log_level=level).log_level == meant
    assert load(tmp_path, f"MONITOR_LOG_LEVEL={level}\n").log_level == meant


@pytest.mark.parametrize(
    ("file", "environ", "given", "level"),
    [
        ("MONITOR_DEBUG=true", {}, {}, "debug"),
        ("MONITOR_DEBUG=1\nMONITOR_LOG_LEVEL=error", {}, {}, "debug"),
        ("MONITOR_DEBUG=0\nMONITOR_LOG_LEVEL=error", {}, {}, "error"),
        ("MONITOR_DEBUG=", {}, {}, "info"),
        ("MONITOR_DEBUG=T", {"MONITOR_LOG_LEVEL": "warning"}, {}, "warning"),
        ("MONITOR_LOG_LEVEL=warning", {"MONITOR_DEBUG": "yes"}, {}, "debug"),
        ("MONITOR_DEBUG=true", {"MONITOR_DEBUG": "false"}, {}, "info"),
        ("MONITOR_DEBUG=true", {}, {"log_level": "error"}, "error"),
    ],
)
def test_debug_setting_of_older_agents_is_supported(
    tmp_path: Path, file: str, environ: dict[str, str], given: dict[str, str], level: str
) -> None:
    assert load(tmp_path, file + "\n", environ, **given).log_level == level


def test_explicitly_named_defaults_file_must_exist() -> None:
    with pytest.raises(ConfigurationError, match="MONITOR_DEFAULTS_FILE=/nowhere: must be an existing file"):
        load_settings({"MONITOR_DEFAULTS_FILE": "/nowhere"}, {})


def test_at_least_one_protocol_must_be_enabled(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        for_daemon(load(tmp_path, ipv4=False, ipv6=False), tmp_path)
    assert for_daemon(load(tmp_path, ipv4=False), tmp_path).protocols == ("v6",)


@pytest.mark.parametrize(
    ("text", "one_in"), [("", 1000), ("MONITOR_TRACE_BATCHES=0\n", 0), ("MONITOR_TRACE_BATCHES=1\n", 1)]
)
def test_share_of_traced_batches_reaches_the_daemon(tmp_path: Path, text: str, one_in: int) -> None:
    assert for_daemon(load(tmp_path, text), tmp_path).trace_batches == one_in


def test_state_directory_in_the_file_overrides_that_of_systemd(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/x"}
    assert base_directory(load(tmp_path, environ=environ), environ) == Path("/var/lib/x")
    assert base_directory(load(tmp_path, "MONITOR_STATE_DIR=/own\n", environ), environ) == Path("/own")


def test_local_addresses_for_the_api_are_checked_and_handed_to_the_daemon(tmp_path: Path) -> None:
    settings = load(tmp_path, "MONITOR_API_BIND=192.0.2.1,2001:db8::1\n")
    daemon = for_daemon(settings, tmp_path, defaults=tmp_path / "defaults")
    assert daemon.api_local == {"v4": "192.0.2.1", "v6": "2001:db8::1"}
    assert (daemon.defaults_file, daemon.defaults_stamp) == (
        str(tmp_path / "defaults"),
        file_stamp(tmp_path / "defaults"),
    )
    with pytest.raises(ConfigurationError, match=r"MONITOR_API_BIND \(.*\)=eth0: 'eth0' is not an IP address"):
        load(tmp_path, "MONITOR_API_BIND=eth0\n")

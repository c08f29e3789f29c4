"""Settings: arguments over environment over the defaults file, and a word about everything that is wrong."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import AgentSettings, ConfigurationError, base_directory, for_daemon, load_settings


def load(tmp_path: Path, file: str = "", environ: dict[str, str] | None = None, **given: Any) -> AgentSettings:
    path = tmp_path / "defaults"
    path.write_text(file)
    return load_settings({"MONITOR_DEFAULTS_FILE": str(path), **(environ or {})}, given)


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.env, settings.log_level, settings.ipv4, settings.ipv6) == ("prod", "info", True, True)
    daemon = for_daemon(settings, tmp_path)
    assert (daemon.protocols, daemon.spool_bytes) == (("v4", "v6"), 64 * 1024 * 1024)


def test_arguments_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
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
def test_other_lines_are_refused_with_file_and_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"defaults line 2: .* must be KEY=VALUE"):
        load(tmp_path, f"A=1\n{line}\n")


@given(st.text(max_size=100))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("d")
    try:
        load(path, text.replace("\r", ""))
    except ConfigurationError as error:
        assert "defaults" in str(error)


def test_everything_wrong_is_named_at_once_with_its_origin(tmp_path: Path) -> None:
    environ = {"MONITOR_IPV8": "1", "DEPLOYMENT_MODE": "production", "MONITOR_SPOOL_MEGABYTES": "0"}
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, "MONITOR_STAET_DIR=/x\n", environ, log_level="loud")
    said = str(refused.value).splitlines()
    assert len(said) == 5
    for words in (
        "MONITOR_STAET_DIR",
        "did you mean MONITOR_STATE_DIR?",
        "MONITOR_IPV8 (environment): is no setting",
        "DEPLOYMENT_MODE (environment)=production: input should be 'prod', 'test' or 'devel'",
        "MONITOR_SPOOL_MEGABYTES (environment)=0: input should be greater than or equal to 1",
        "argument for MONITOR_LOG_LEVEL=loud: input should be 'debug', 'info', 'warning' or 'error'",
    ):
        assert words in str(refused.value)


def test_a_defaults_file_that_was_named_must_exist() -> None:
    with pytest.raises(ConfigurationError, match="MONITOR_DEFAULTS_FILE=/nowhere: must be a file that exists"):
        load_settings({"MONITOR_DEFAULTS_FILE": "/nowhere"}, {})


def test_one_protocol_must_be_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        for_daemon(load(tmp_path, ipv4=False, ipv6=False), tmp_path)
    assert for_daemon(load(tmp_path, ipv4=False), tmp_path).protocols == ("v6",)


def test_the_state_directory_in_the_file_wins_over_systemds(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/x"}
    assert base_directory(load(tmp_path, environ=environ), environ) == Path("/var/lib/x")
    assert base_directory(load(tmp_path, "MONITOR_STATE_DIR=/own\n", environ), environ) == Path("/own")

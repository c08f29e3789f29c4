"""Test which agent a command is about, and that settings which name another API are noticed."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent import settings as settings_module
from agent.daemon_settings import DaemonSettings
from agent.place import daemon_base, look
from agent.settings import AgentSettings
from agent.state import Api, Lock, StateDirectory, StateFile
from agent.status import waiting_report
from agent.status_file import write_report

API = Api(url="https://api.example", key="ntpm_a_key_for_tests", ca_file="/etc/ca.pem")
SETTINGS = AgentSettings(env="devel")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StateDirectory, StateDirectory, dict[str, str]]:
    """The user's own directory and that of the units, and the environment of a command; nothing is set up."""
    service = tmp_path / "service"
    monkeypatch.setattr(settings_module, "SERVICE_STATE", service)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    return StateDirectory(tmp_path / "config" / "ntppool-agent", "devel"), StateDirectory(service, "devel"), environ


def set_up(directory: StateDirectory) -> None:
    directory.prepare()
    directory.write_file(StateFile(api=API))


def left_over(directory: StateDirectory) -> None:
    """What a daemon leaves that was never set up."""
    directory.prepare()
    (directory.spool / "v4").mkdir(parents=True)
    directory.lock_file.touch()
    waited = DaemonSettings(env=directory.env, state_base=str(directory.path.parent))
    write_report(directory, waiting_report(waited, datetime.now(UTC), "state.json: is missing"))


def test_all_commands_find_the_directory_that_is_set_up(
    places: tuple[StateDirectory, StateDirectory, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, service, environ = places
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert daemon_base(SETTINGS, environ) == service.path.parent, "there, setup will set it up"
    left_over(own)
    assert daemon_base(SETTINGS, environ) == service.path.parent, "root makes no second one"
    set_up(service)
    assert daemon_base(SETTINGS, environ) == service.path.parent
    assert look(SETTINGS, environ).path == str(service.path), "leftovers do not win"
    set_up(own)
    assert daemon_base(SETTINGS, environ) == own.path.parent
    with Lock(service):
        assert daemon_base(SETTINGS, environ) == service.path.parent, "a daemon runs there"
    assert daemon_base(AgentSettings(state_dir=own.path), environ) == own.path, "it was named"


def test_own_agent_of_a_user_stays_in_its_directory(
    places: tuple[StateDirectory, StateDirectory, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _, environ = places
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert daemon_base(SETTINGS, environ) == own.path.parent


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, None),
        ({"api": "https://api.example/", "api_ca_file": "/etc/ca.pem"}, None),
        ({"api": "https://new.example"}, "MONITOR_API is https://new.example, but setup has used https://api.example"),
        ({"api_ca_file": "/etc/new.pem"}, "MONITOR_API_CA_FILE is /etc/new.pem, but setup has used /etc/ca.pem"),
    ],
)
def test_settings_that_name_another_api_are_said(tmp_path: Path, given: dict[str, str], words: str | None) -> None:
    set_up(StateDirectory(tmp_path, "devel"))
    said = look(AgentSettings(env="devel", state_dir=tmp_path, **given), {}).settings_differ  # type: ignore[arg-type]
    assert (said is None) if words is None else (said is not None and said.startswith(words) and " setup' to" in said)

"""Test the command line's arguments and output, and what ``setup`` checks before it asks the API."""

import io
import os
from pathlib import Path
from typing import Any

import pytest

from agent import output, setup_command
from agent.__main__ import options_first
from agent.settings import AgentSettings, ConfigurationError, load_settings
from agent.setup import Setup, SetupFailed, Wanted
from agent.setup_command import advice_for_user, check_readable, set_up
from agent.state import SERVICE_STATE, Api, StateDirectory, StateError, StateFile

OWN = StateDirectory(Path("/home/a/.config/ntppool-agent"), "prod")
API = Api(url="https://api.example", key="ntpm_a_key_for_tests")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("setup --env test --yes", "--env test setup --yes"),
        ("api ok -e test", "-e test api ok"),
        ("setup --env=test --state-dir /a", "--env=test --state-dir /a setup"),
        ("-e test monitor --once", "-e test monitor --once"),
        ("check -- -e", "check -- -e"),
        ("status --env", "--env status"),
    ],
)
def test_environment_and_directory_may_be_named_after_the_command(given: str, meant: str) -> None:
    assert options_first(given.split()) == meant.split()


def test_only_close_names_of_settings_are_suggested() -> None:
    warned: list[str] = []
    load_settings({"MONITOR_FOO": "1", "MONITOR_APIS": "1"}, {}, warned.append)
    assert [("did you mean MONITOR_API?" in text) for text in warned] == [True, False], warned


def test_each_line_is_seen_at_once_and_errors_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``| tee``, where the output is buffered."""
    events: list[str] = []

    class Stream(io.StringIO):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name_ = name

        def flush(self) -> None:
            if text := self.getvalue():
                events.append(f"{self.name_}: {text.strip()}")
                self.truncate(0)
                self.seek(0)

    monkeypatch.setattr(output.sys, "stdout", Stream("out"))
    monkeypatch.setattr(output.sys, "stderr", Stream("err"))
    output.write("the address")
    assert events == ["out: the address"]
    for say in (output.print_error, output.warn):
        events.clear()
        output.sys.stdout.write("before")
        say("failed")
        assert events == ["out: before"], "on stderr, which is not buffered, it is later"


def test_error_is_not_appended_to_the_progress_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(output.sys, "stderr", shown)
    made = Setup(StateDirectory(tmp_path, "devel"), None, Wanted("", "", ()), print)  # type: ignore[arg-type]

    def fail() -> None:
        made._progress.show("waiting for the confirmation (2s)")
        raise SetupFailed("the pool says: no")

    monkeypatch.setattr(made, "_run", fail)
    with pytest.raises(SetupFailed):
        made.run()
    assert shown.getvalue().endswith("(2s)\r\x1b[K")


def test_file_that_the_owner_cannot_read_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    for wrong in (path, tmp_path):
        with pytest.raises(ConfigurationError, match=f"MONITOR_API_CA_FILE: {wrong}: must be a readable file"):
            check_readable("MONITOR_API_CA_FILE", wrong)
    path.touch()
    check_readable("MONITOR_API_CA_FILE", path)

    def closed(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(ConfigurationError) as refused:
        check_readable("MONITOR_API_CA_FILE", path)
    said = str(refused.value)
    assert f"MONITOR_API_CA_FILE: {path}: cannot be read by the user {setup_command.user_name()}" in said
    assert "/etc" in said and "chmod 644" in said and "\n" not in said


def test_user_who_sets_up_what_the_service_does_not_find_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AgentSettings(env="prod")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    said = advice_for_user(settings, {}, OWN)
    assert said is not None and "user 54321" in said and "run it as root" in said and "ntppool-agent@prod" in said
    service = StateDirectory(SERVICE_STATE, "prod")
    assert advice_for_user(settings, {}, service) is None, "the service's user"
    assert advice_for_user(AgentSettings(env="prod", state_dir=OWN.path), {}, OWN) is None
    mine = StateDirectory(tmp_path, "prod")
    mine.prepare()
    mine.write_file(StateFile(api=API))
    assert advice_for_user(settings, {}, mine) is None, "set up before"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert advice_for_user(settings, {}, OWN) is None


def test_user_who_cannot_write_is_told_to_be_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    settings = AgentSettings(env="prod", state_dir=tmp_path / "file")
    with pytest.raises(StateError, match=r"must be a writable directory.*run this as root"):
        set_up(settings, {}, hostname="h", account="", api=None, yes=False)


@pytest.mark.parametrize("file", [StateFile(api=API), StateFile(name="a.devel.mon.example", api=API)])
def test_host_that_is_set_up_needs_consent_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: StateFile
) -> None:
    directory = StateDirectory(tmp_path, "devel")
    directory.prepare()
    directory.write_file(file)
    monkeypatch.setattr(setup_command.sys, "stdin", io.StringIO())
    monkeypatch.setattr(setup_command, "Setup", lambda *_, **__: pytest.fail("the API is asked"))
    with pytest.raises(ConfigurationError, match=r"is set up as .* needs --yes"):
        set_up(AgentSettings(env="devel", state_dir=tmp_path), {}, hostname="h", account="", api=None, yes=False)
    assert not directory.registration_file.exists()

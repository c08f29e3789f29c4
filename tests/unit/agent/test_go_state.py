"""Test that only the older agent's state is taken over, and that it is kept."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from agent.go_state import take_over
from agent.state import Api, NotSetUp, StateDirectory, StateFile

URL = "https://api.pool.example"
NAME = "uspao1-abc123.test.mon.example"
DATA = {
    "Name": "uspao1",
    "TLSName": NAME,
    "IPv4": {"Status": "testing", "IP": "192.0.2.1"},
    "IPv6": {"Status": "", "IP": None},
}


def written(base: Path, content: Any) -> StateDirectory:
    directory = StateDirectory(base, "test")
    directory.prepare()
    directory.state_file.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def test_key_and_name_are_taken_over_and_the_file_is_kept(tmp_path: Path) -> None:
    content = {"API": {"APIKey": "key-of-go"}, "Data": DATA, "DataSha": "0"}
    directory = written(tmp_path, content)
    assert take_over(directory, URL)
    assert directory.read_file() == StateFile(name=NAME, api=Api(url=URL, key="key-of-go"))
    assert json.loads(directory.go_state_file.read_text()) == content
    assert stat.S_IMODE(directory.go_state_file.stat().st_mode) == 0o600
    assert not take_over(directory, URL), "once"
    with pytest.raises(NotSetUp, match="has no broker yet"):
        directory.read_state()


def test_name_of_another_environment_is_left_to_the_api(tmp_path: Path) -> None:
    directory = written(tmp_path, {"API": {"APIKey": "key-of-go"}, "Data": {"TLSName": "a.prod.mon.example"}})
    assert take_over(directory, URL)
    assert directory.read_file() == StateFile(api=Api(url=URL, key="key-of-go"))


def test_state_without_a_key_is_set_aside(tmp_path: Path) -> None:
    directory = written(tmp_path, {"API": {"APIKey": ""}, "Data": {"Name": ""}})
    assert take_over(directory, URL)
    assert directory.go_state_file.exists() and directory.read_file() == StateFile()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 60_000,
        {},
        {"name": NAME, "broker": {"host": "b"}},
        {"API": {"APIKey": "key-of-go"}, "name": NAME},
        {"API": {"APIKey": 5}},
        {"DataSha": "0"},
    ],
)
def test_anything_else_is_left_alone(tmp_path: Path, content: Any) -> None:
    directory = written(tmp_path, content)
    before = directory.state_file.read_bytes()
    assert not take_over(directory, URL)
    assert directory.state_file.read_bytes() == before and not directory.go_state_file.exists()


def test_secrets_are_not_in_representations() -> None:
    shown = repr(StateFile(api=Api(url=URL, key="secret-key", registration="secret-id")))
    assert "secret" not in shown

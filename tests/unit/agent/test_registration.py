"""Test which registration ``setup`` goes on with."""

import time
from pathlib import Path

import msgspec
import pytest

from agent.registration import LASTS, begin_or_go_on, end
from agent.state import StateDirectory

URL = "https://api.example"


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path, "devel")
    made.prepare()
    return made


@pytest.mark.parametrize(
    ("ago", "again"), [(0.0, True), (LASTS - 60, True), (LASTS + 1, False), (60 - LASTS, True), (-LASTS - 1, False)]
)
def test_registration_lasts_a_day_also_if_the_clock_was_ahead_when_it_began(
    directory: StateDirectory, ago: float, again: bool
) -> None:
    begun, known = begin_or_go_on(directory, URL, "host.example", "")
    assert not known
    changed = msgspec.structs.replace(begun, started=time.time() - ago)
    directory.registration_file.write_bytes(msgspec.json.encode(changed))
    assert (begin_or_go_on(directory, URL, "host.example", "")[0].id == begun.id) is again


@pytest.mark.parametrize("changed", [("https://other.example", "h", "a"), (URL, "other", "a"), (URL, "h", "other")])
def test_registration_with_other_arguments_is_another_one(
    directory: StateDirectory, changed: tuple[str, str, str]
) -> None:
    begun, _ = begin_or_go_on(directory, URL, "h", "a")
    found, known = begin_or_go_on(directory, *changed)
    assert not known and found.id != begun.id, "the secret of one API is not shown to another"
    end(directory)
    assert not directory.registration_file.exists()

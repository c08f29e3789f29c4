"""Test every parser of untrusted input with a few thousand random inputs; ``scripts/fuzz`` uses a million."""

from pathlib import Path

import pytest

from bench.fuzz import fuzz
from bench.fuzz_targets import Broken, Target, targets
from testbed.random_inputs import scaled

INPUTS = scaled(3_000)
NAMES = [
    "payloads",
    "results",
    "ntp-reply",
    "state-file",
    "defaults-file",
    "dsn",
    "names-and-topics",
    "token-claims",
    "traceroute",
    "route-in-an-answer",
]


def target(name: str, directory: Path) -> Target:
    return next(each for each in targets(directory) if each.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_parser_behaves_as_documented_for_random_inputs(name: str, tmp_path: Path) -> None:
    assert fuzz(target(name, tmp_path), INPUTS, seed=20_260_101).value == INPUTS


def test_all_parsers_are_fuzzed(tmp_path: Path) -> None:
    assert [each.name for each in targets(tmp_path)] == NAMES


def test_violation_is_reported_with_its_input(tmp_path: Path) -> None:
    def feed(data: bytes) -> None:
        if b"1e999" in data:
            raise OverflowError

    with pytest.raises(Broken, match="1e999"):
        fuzz(Target("planted", (b'{"offset": 1}',), feed), INPUTS, seed=1)

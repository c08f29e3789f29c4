"""Test the plugin's parser and table of revocations, and their file, by comparing them with simple models."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from schema.messages import RevokeTokens, encode
from testbed.fixtures.plugin_harness import Ask, Harness, yes
from testbed.random_inputs import examples

NAME = "revoked1-x.test.mon.example"
HOURS = 3600
REMEMBERED = 7 * HOURS
AHEAD = 120
MOST = 4096

checked = examples(100, suppress=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with Harness() as running:
        yield running


# --- messages -----------------------------------------------------------------------------------------


@checked
@given(name=st.from_regex(r"[a-z0-9.é-]{1,100}", fullmatch=True), until=st.integers(0, 10**15 - 1))
def test_message_of_the_api_is_understood(ask: Ask, name: str, until: int) -> None:
    text = encode(RevokeTokens(name=name, issued_until=until)).decode()
    assert ask("order", text) == f"{name}\t{until}"


def expected(text: str) -> str:
    """Return the harness's answer for a message that may be anything, by Python's parser."""
    try:
        read: Any = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        return "no"
    if not isinstance(read, list) or any(not isinstance(pair, tuple) for pair in read):
        return "no"
    keys = [key for key, _ in read]
    members = dict(read)
    name, until = members.get("name"), members.get("issued_until")
    good = (
        keys.count("name") == keys.count("issued_until") == 1
        and isinstance(name, str)
        and isinstance(until, int)
        and not isinstance(until, bool)
        and 0 <= until < 10**15
        and 1 <= len(name.encode()) <= 253
        and not set(name) & set('+#/\\"')
        and not any(isinstance(value, list) for value in members.values())
    )
    return f"{name}\t{until}" if good else "no"


TEXTS = ["a", "b.c", "", "+", "a/b", "é", "x" * 254]
OTHERS = ["1", "0", "-1", "1.0", "true", "null", "[1]", "{}"]
VALUES = st.sampled_from([*(f'"{text}"' for text in TEXTS), *OTHERS])
KEYS = st.sampled_from(["name", "issued_until", "other"])


@checked
@given(
    st.lists(st.tuples(KEYS, VALUES), max_size=4),
    st.sampled_from(["", " ", "x", ",", "}"]),
    st.sampled_from(["", " ", "[", "{"]),
)
def test_message_is_parsed_like_json(ask: Ask, members: list[tuple[str, str]], after: str, before: str) -> None:
    text = before + "{" + ", ".join(f'"{key}": {value}' for key, value in members) + "}" + after
    assert ask("order", text) == expected(text)


GOOD = f'{{"name":"{NAME}","issued_until":5}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        f'["name","{NAME}"]',
        GOOD[:-1],
        GOOD[1:],
        GOOD + GOOD,
        GOOD.replace(":5", ":5,"),
        GOOD.replace(":5", ":05"),
        GOOD.replace(":5", ":5e3"),
        GOOD.replace(":5", ":5.0"),
        GOOD.replace(":5", ':"5"'),
        GOOD.replace(":5", ":" + "9" * 16),
        GOOD.replace(NAME, "a\\u0062"),
        GOOD.replace(NAME, "a\\"),
        GOOD.replace(NAME, "a\x01"),
        GOOD.replace(NAME, ""),
        GOOD.replace(NAME, "x" * 254),
        GOOD.replace('"name"', '"\\u006eame"'),
        GOOD.replace("{", '{"name":"other",'),
        GOOD.replace("{", '{"x":[],'),
        GOOD.replace("{", '{"x":{},'),
        GOOD.replace("{", f'{{"x":"{"y" * 1000}",'),
        GOOD.replace("{", '{"x'),
        GOOD.replace("{", "{'x':1,"),
    ],
)
def test_anything_else_is_refused(ask: Ask, text: str) -> None:
    assert ask("order", text) == "no"


def test_other_fields_are_ignored(ask: Ask) -> None:
    text = GOOD.replace("{", '{ "x\\"" : "y\\\\" , "z":-1.5e3,"n":null,"t":true , ')
    assert ask("order", text) == f"{NAME}\t5"


@pytest.mark.parametrize(
    ("topic", "is_one"),
    [
        ("/test/control/broker/revocations", True),
        ("/prod/control/broker/revocations", True),
        ("/test/control/broker/revocations/x", False),
        ("/test/control/broker", False),
        ("/test/x/control/broker/revocations", False),
        ("test/control/broker/revocations", False),
        ("/+/control/broker/revocations", False),
    ],
)
def test_topic_of_revocations_is_a_control_topic(ask: Ask, topic: str, is_one: bool) -> None:
    assert yes(ask("revocations", topic)) is is_one
    if is_one:
        assert yes(ask("control", topic))


# --- the table ----------------------------------------------------------------------------------------


class Table(RuleBasedStateMachine):
    """Revocations are added, expire, and survive restarts; a dictionary is the model."""

    names = st.sampled_from(["ann", "bob", "ann.x", "é and ü"])
    times = st.integers(0, 12 * HOURS)

    def __init__(self) -> None:
        super().__init__()
        self.ask = Harness()
        self.until: dict[str, int] = {}
        self.now = 0

    def teardown(self) -> None:
        self.ask.close()

    @rule(name=names, until=times)
    def add(self, name: str, until: int) -> None:
        answer = self.ask("add", name, str(until), str(self.now))
        if until > self.now + AHEAD:
            assert answer == "its time is in the future: compare the clocks of broker and sender"
            return
        assert answer == "good"
        self.until = {known: end for known, end in self.until.items() if self.now - end <= REMEMBERED}
        self.until[name] = max(until, self.until.get(name, 0))

    @rule(passed=st.sampled_from([1, 600, 3 * HOURS, REMEMBERED]))
    def wait(self, passed: int) -> None:
        self.now += passed

    @invariant()
    def they_agree(self) -> None:
        for name in ("ann", "bob", "ann.x", "é and ü", "an"):
            until = self.until.get(name)
            for issued in [0] if until is None else [0, until, until + 1]:
                assert yes(self.ask("refuse", name, str(issued))) == (until is not None and issued <= until)
            for client_id in (name, f"{name}/once"):
                in_force = until is not None and self.now - until <= REMEMBERED
                assert yes(self.ask("concern", client_id, str(self.now))) == in_force


def test_table_of_revocations_agrees_with_the_model() -> None:
    run_state_machine_as_test(Table, settings=examples(20, stateful_step_count=20))


def test_number_of_revocations_is_limited_and_expired_ones_make_room(ask: Ask, tmp_path: Path) -> None:
    assert ask("load", str(tmp_path / "none")) == "good"
    for number in range(MOST):
        assert ask("add", f"name{number}", "1000", "1000") == "good"
    assert ask("add", "another", "1000", "1000") == "too many revocations are in force"
    assert ask("add", "name7", "1001", "1000") == "good"
    assert not yes(ask("refuse", "another", "0"))
    assert ask("add", "another", "1000", str(1001 + REMEMBERED)) == "good"
    assert yes(ask("refuse", "another", "1000"))
    assert yes(ask("refuse", "name7", "1001")), "that of name7 is a second younger than the others"
    assert not yes(ask("refuse", "name8", "0"))


# --- the file -----------------------------------------------------------------------------------------


def test_file_restores_the_revocations(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "revocations"
    assert ask("load", str(path)) == "good", "a missing file is no error"
    for name, until in (("ann", "5"), ("é ü", "7"), ("ann", "6")):
        ask("add", name, until, "1000")
    assert ask("save", str(path)) == "good"
    assert path.read_text() == "6 ann\n7 é ü\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["revocations"]
    assert ask("load", str(tmp_path / "none")) == "good"
    assert not yes(ask("refuse", "ann", "6"))
    assert ask("load", str(path)) == "good"
    assert yes(ask("refuse", "ann", "6")) and yes(ask("refuse", "é ü", "7"))
    assert not yes(ask("refuse", "ann", "7"))


LINES = st.sampled_from(
    [
        *("5 ann", "7 ann", "6 bob", "5  ann", "", "ann", "5ann", "-5 ann", "5 a/b", "5 ", "5", "x"),
        *("5 a\0b", "5 a\1", "5 ann\r", f"{'9' * 16} ann", f"5 {'x' * 254}"),
    ]
)


def parsed(line: str) -> tuple[str, int] | None:
    match = re.fullmatch(r"([0-9]{1,15}) ([^\0-\x1f\x7f+#/]{1,253})", line)
    return (match[2], int(match[1])) if match else None


@checked
@given(lines=st.lists(LINES, max_size=6), end=st.sampled_from(["", "\n"]))
def test_damaged_lines_are_ignored_and_the_others_count(ask: Ask, lines: list[str], end: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(("\n".join(lines) + end).encode())
    answer = ask("load", str(path))
    bad = sum(line != "" and parsed(line) is None for line in lines)
    assert answer == ("good" if bad == 0 else f"revocations file {path}: is damaged: {bad} lines are ignored")
    good: dict[str, int] = {}
    for name, until in filter(None, map(parsed, lines)):
        good[name] = max(until, good.get(name, 0))
    for name, until in good.items():
        assert yes(ask("refuse", name, str(until)))
        assert not yes(ask("refuse", name, str(until + 1)))


@checked
@given(content=st.binary(max_size=300))
def test_file_with_any_content_is_survived(ask: Ask, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_bytes(content + b"\n5 ann\n")
    answer = ask("load", str(path))
    assert answer == "good" or "is damaged" in answer
    assert yes(ask("refuse", "ann", "5"))


def test_file_that_is_too_long_is_cut(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_text("".join(f"5 name{number}\n" for number in range(100_000)))
    assert "is damaged" in ask("load", str(path))
    assert yes(ask("refuse", f"name{MOST - 1}", "5"))
    assert not yes(ask("refuse", f"name{MOST}", "5"))


def test_file_that_cannot_be_read_or_written_is_reported(ask: Ask, tmp_path: Path) -> None:
    assert ask("load", str(tmp_path)) == f"revocations file {tmp_path}: cannot be read: Is a directory"
    path = tmp_path / "none" / "revocations"
    assert ask("save", str(path)) == f"revocations file {path}: cannot be written: No such file or directory"


def test_former_file_stays_if_the_new_one_cannot_be_written(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "revocations"
    path.write_text("5 ann\n")
    (tmp_path / "revocations.new").mkdir()
    assert "cannot be written" in ask("save", str(path))
    assert path.read_text() == "5 ann\n"

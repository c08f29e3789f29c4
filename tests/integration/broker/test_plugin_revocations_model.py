"""Test the plugin's parser and table of revocations, and their file, by comparing them with simple models."""

import itertools
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
    """Revocations are added, expire, and meet a clock that is set; a dictionary is the model."""

    names = st.sampled_from(["ann", "bob", "ann.x", "é and ü"])
    times = st.integers(0, 12 * HOURS)

    def __init__(self) -> None:
        super().__init__()
        self.ask = Harness()
        self.known: dict[str, tuple[int, int]] = {}
        """By name: until when the tokens were issued, and when the broker learned of it."""
        self.now = 0

    def in_force(self, name: str) -> int | None:
        """Return until when tokens are refused: a time ahead of the clock counts as that when it was learned of."""
        until, noted = self.known.get(name, (None, 0))
        return noted if until is not None and until > self.now + AHEAD else until

    def teardown(self) -> None:
        self.ask.close()

    @rule(name=names, until=times)
    def add(self, name: str, until: int) -> None:
        answer = self.ask("add", name, str(until), str(self.now))
        if until > self.now + AHEAD:
            assert answer == "its time is in the future: compare the clocks of broker and sender"
            return
        assert answer == "good"
        ends = {known: self.in_force(known) for known in self.known}
        self.known = {one: self.known[one] for one, end in ends.items() if self.now - (end or 0) <= REMEMBERED}
        if name not in self.known or until > (self.in_force(name) or 0):
            self.known[name] = (until, self.now)

    @rule(passed=st.sampled_from([1, 600, 3 * HOURS, REMEMBERED, -600, -3 * HOURS]))
    def wait(self, passed: int) -> None:
        self.now = max(0, self.now + passed)

    @invariant()
    def they_agree(self) -> None:
        for name in ("ann", "bob", "ann.x", "é and ü", "an"):
            until = self.in_force(name)
            for issued in [0] if until is None else [0, until, until + 1]:
                refused = yes(self.ask("refuse", name, str(issued), str(self.now)))
                assert refused == (until is not None and issued <= until)
            for client_id in (name, f"{name}/once"):
                in_force = until is not None and self.now - until <= REMEMBERED
                assert yes(self.ask("concern", client_id, str(self.now))) == in_force


def test_table_of_revocations_agrees_with_the_model() -> None:
    run_state_machine_as_test(Table, settings=examples(20, stateful_step_count=20))


def refuses(ask: Ask, name: str, issued: int, now: int = 1000) -> bool:
    """Return whether the table refuses a token."""
    return yes(ask("refuse", name, str(issued), str(now)))


def load(ask: Ask, path: Path, now: int = 1000) -> str:
    """Let the table consist of what is in a file."""
    return ask("load", str(path), str(now))


def written(path: Path, content: bytes, at: int = 1000) -> Path:
    """Write a file as if at this time."""
    path.write_bytes(content)
    os.utime(path, (at, at))
    return path


def test_number_of_revocations_is_limited_and_expired_ones_make_room(ask: Ask, tmp_path: Path) -> None:
    assert load(ask, tmp_path / "none") == "good"
    for number in range(MOST):
        assert ask("add", f"name{number}", "1000", "1000") == "good"
    assert ask("add", "another", "1000", "1000") == "too many revocations are in force"
    assert ask("add", "name7", "1001", "1000") == "good"
    assert not refuses(ask, "another", 0)
    assert ask("add", "another", "1000", str(1001 + REMEMBERED)) == "good"
    assert refuses(ask, "another", 1000)
    assert refuses(ask, "name7", 1001), "that of name7 is a second younger than the others"
    assert not refuses(ask, "name8", 0)


# --- the file -----------------------------------------------------------------------------------------


def test_file_restores_the_revocations(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "revocations"
    assert load(ask, path) == "good", "a missing file is no error"
    for name, until in (("ann", "5"), ("é ü", "7"), ("ann", "6")):
        ask("add", name, until, "1000")
    assert ask("save", str(path)) == "good"
    assert path.read_text() == "6 ann\n7 é ü\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["revocations"]
    os.utime(path, (1000, 1000))
    assert load(ask, tmp_path / "none") == "good"
    assert not refuses(ask, "ann", 6)
    assert load(ask, path) == "good"
    assert refuses(ask, "ann", 6) and refuses(ask, "é ü", 7)
    assert not refuses(ask, "ann", 7)


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
    path = written(tmp_path / "damaged", ("\n".join(lines) + end).encode())
    answer = load(ask, path)
    bad = sum(line != "" and parsed(line) is None for line in lines)
    said = f"revocations file {path}: is damaged: {bad} lines are ignored, 0 with an impossible time"
    assert answer == "good" if bad == 0 else answer.startswith(said)
    good: dict[str, int] = {}
    for name, until in filter(None, map(parsed, lines)):
        good[name] = max(until, good.get(name, 0))
    for name, until in good.items():
        assert refuses(ask, name, until)
        assert not refuses(ask, name, until + 1)


MONTH = 30 * 24 * HOURS
NOW = 10 * MONTH


def test_impossible_times_revoke_all_tokens_until_now_and_no_later_ones(ask: Ask, tmp_path: Path) -> None:
    far = [0, 1, NOW - REMEMBERED - AHEAD - 1, NOW + AHEAD + 1, NOW + MONTH, 10**15 - 1]
    near = [NOW - REMEMBERED - AHEAD, NOW - 1, NOW + AHEAD]
    lines = "".join(f"{until} a{until}\n" for until in far + near)
    path = written(tmp_path / "damaged", lines.encode(), NOW)
    said = f"is damaged: 0 lines are ignored, {len(far)} with an impossible time revoke all tokens until now"
    assert load(ask, path, NOW) == f"revocations file {path}: {said}"
    for until, now in itertools.product(far, (NOW, NOW + 10 * MONTH, 0)):
        assert refuses(ask, f"a{until}", NOW, now) and not refuses(ask, f"a{until}", NOW + 1, now), until
    for until in near:
        assert refuses(ask, f"a{until}", until, NOW) and not refuses(ask, f"a{until}", until + 1, NOW), until
    assert ask("add", f"a{far[-1]}", str(NOW + 5), str(NOW + 5)) == "good"
    assert refuses(ask, f"a{far[-1]}", NOW + 5, NOW + 5), "a later revocation is not taken for a known one"


@pytest.mark.parametrize("when", ["ahead when the file was written", "behind now"])
def test_wrong_clock_of_the_broker_neither_loses_a_revocation_nor_locks_a_monitor_out(
    ask: Ask, when: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "revocations", f"{NOW} ann\n".encode(), NOW)
    started = NOW - MONTH
    assert "1 lines are later than this machine's clock" in load(ask, path, started)
    assert refuses(ask, "ann", started, started) and not refuses(ask, "ann", started + 1, started)
    if when == "behind now":
        assert refuses(ask, "ann", NOW, NOW), "it counts when the clock is right"
    else:
        assert ask("add", "ann", str(started + 60), str(started + 60)) == "good"
        assert refuses(ask, "ann", started + 60, started + 60) and not refuses(ask, "ann", NOW, NOW)


@checked
@given(content=st.binary(max_size=300))
def test_file_with_any_content_is_survived(ask: Ask, content: bytes, tmp_path: Path) -> None:
    answer = load(ask, written(tmp_path / "anything", content + b"\n5 ann\n"))
    assert answer == "good" or "is damaged" in answer
    assert refuses(ask, "ann", 5)


def test_file_that_is_too_long_is_cut(ask: Ask, tmp_path: Path) -> None:
    path = written(tmp_path / "long", "".join(f"5 name{number}\n" for number in range(100_000)).encode())
    assert "is damaged" in load(ask, path)
    assert refuses(ask, f"name{MOST - 1}", 5)
    assert not refuses(ask, f"name{MOST}", 5)


def test_file_that_cannot_be_read_or_written_is_reported(ask: Ask, tmp_path: Path) -> None:
    assert load(ask, tmp_path) == f"revocations file {tmp_path}: cannot be read: Is a directory"
    path = tmp_path / "none" / "revocations"
    assert ask("save", str(path)) == f"revocations file {path}: cannot be written: No such file or directory"


def test_former_file_stays_if_the_new_one_cannot_be_written(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "revocations"
    path.write_text("5 ann\n")
    (tmp_path / "revocations.new").mkdir()
    assert "cannot be written" in ask("save", str(path))
    assert path.read_text() == "5 ann\n"

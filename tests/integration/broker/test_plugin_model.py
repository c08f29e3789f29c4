"""Test the parts of the plugin that do not depend on a broker, by comparing them with slow and simple models.

They run as a separate program (``harness``), built from the same sources as the plugin.
"""

import itertools
import json
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from auth.tokens import load_key
from testbed.fixtures.broker import PLUGIN_SOURCE
from testbed.fixtures.plugin_harness import Ask, Harness, yes
from testbed.random_inputs import examples

REMEMBERED_SECONDS = 3 * 24 * 3600
LOOK_SECONDS = 3600


@pytest.mark.parametrize("program", ["fuzz_token", "fuzz_topic", "fuzz_certificate", "fuzz_order"])
def test_fuzzing_programs_compile(program: str) -> None:
    """They are built only for fuzzing, which needs clang; any compiler finds out whether they still fit the plugin."""
    newer = subprocess.run(["pkg-config", "--atleast-version=3", "libjwt"], check=False).returncode == 0
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", f"-DLIBJWT={3 if newer else 1}", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-fsyntax-only", str(PLUGIN_SOURCE / f"{program}.c")], check=True)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    running = Harness()
    yield running
    running.close()


@pytest.fixture(scope="module")
def ask(harness: Harness) -> Ask:
    return harness


# The profile determines the number of examples, which all share one harness.
checked = examples(100, suppress=[HealthCheck.function_scoped_fixture])


# --- topics -------------------------------------------------------------------------------------------


def is_valid(filter_: str) -> bool:
    *first, last = filter_.split("/")
    return (
        bool(filter_)
        and all(level == "+" or not set(level) & set("+#") for level in first)
        and (last in ("+", "#") or not set(last) & set("+#"))
    )


def matches(filter_: str, topic: str) -> bool:
    """Match a topic as specified in MQTT 5, section 4.7."""

    def levels(f: list[str], t: list[str]) -> bool:
        if not f:
            return not t
        if f[0] == "#":
            return True
        if not t:
            return False
        return (f[0] == "+" or f[0] == t[0]) and (levels(f[1:], t[1:]) or (f[1:] == ["#"] and not t[1:]))

    if topic.startswith("$") and filter_[0] in "+#":
        return False
    return levels(filter_.split("/"), topic.split("/"))


LEVELS = st.sampled_from(["", "a", "b", "+", "#", "$x"])
FILTERS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join)
VALID = FILTERS.filter(is_valid)


@checked
@given(filter_=st.one_of(FILTERS, st.text(alphabet="a/+#$", max_size=8)))
def test_filter_validity_agrees_with_the_model(ask: Ask, filter_: str) -> None:
    assert yes(ask("valid", filter_)) == is_valid(filter_)


@checked
@given(filter_=VALID, topic=st.lists(st.sampled_from(["", "a", "b", "$x", "c"]), min_size=1, max_size=5).map("/".join))
def test_topic_matching_agrees_with_the_model(ask: Ask, filter_: str, topic: str) -> None:
    assert yes(ask("matches", filter_, topic)) == (bool(topic) and matches(filter_, topic))


def test_filter_covers_another_if_it_matches_all_of_its_topics(harness: Harness) -> None:
    def texts(names: list[str], levels: int) -> list[str]:
        return ["/".join(some) for size in range(1, levels + 1) for some in itertools.product(names, repeat=size)]

    filters = [text for text in texts(["", "a", "b", "+", "#", "$x"], 3) if is_valid(text)]
    # Topics have one level more than the filters, and a name that does not occur in them.
    topics = [text for text in texts(["", "a", "b", "z", "$x"], 4) if text]
    matched = {f: sum(1 << bit for bit, topic in enumerate(topics) if matches(f, topic)) for f in filters}
    pairs = list(itertools.product(filters, filters))
    answers = harness.many([("covers", granted, asked) for granted, asked in pairs])
    for (granted, asked), answer in zip(pairs, answers, strict=True):
        really = matched[asked] & ~matched[granted] == 0
        if yes(answer):
            assert really, f"{granted} does not cover {asked}"
        else:
            # A "+" never covers a "#", even where it could: "+/#" matches the same topics as "#".
            assert not really or ("#" in asked and "+" in granted), f"{granted} covers {asked}"


@pytest.mark.parametrize(
    ("topic", "is_control"),
    [
        ("/test/control/ingest", True),
        ("/test/control", True),
        ("/prod/control/a/b", True),
        ("/x/monitors/control/name", True),
        ("/x/monitors/control", True),
        ("/test/controls/x", False),
        ("/test/x/control/y", False),
        ("/test/monitors/config/control", False),
        ("test/control/x", False),
        ("//control/x", True),
        ("/a/b/control/x", False),
    ],
)
def test_control_topics_are_detected(ask: Ask, topic: str, is_control: bool) -> None:
    assert yes(ask("control", topic)) is is_control


@pytest.mark.parametrize(
    ("topic", "is_status"),
    [
        ("/test/monitors/status/joe/status", True),
        ("/x/monitors/status/joe/status", True),
        ("/test/monitors/status/joe/api-test", False),
        ("/test/monitors/status/joe", False),
        ("/test/monitors/status/joe/status/", False),
        ("/test/monitors/status/joes/status", False),
        ("/test/monitors/status/jo/status", False),
        ("/test/monitors/results/joe/status", False),
        ("/a/b/monitors/status/joe/status", False),
        ("test/monitors/status/joe/status", False),
        ("/monitors/status/joe/status", False),
        ("", False),
        ("/", False),
    ],
)
def test_status_topics_of_a_name_are_detected(ask: Ask, topic: str, is_status: bool) -> None:
    assert yes(ask("status", topic, "joe")) is is_status


# --- filters of a token -------------------------------------------------------------------------------

GRANTS = st.lists(
    st.one_of(
        VALID, st.tuples(st.sampled_from(["+", "g", "h"]), VALID).map(lambda pair: f"$share/{pair[0]}/{pair[1]}")
    ),
    max_size=4,
)


def subscription_is_granted(grants: list[str], asked: str, ask: Ask) -> bool:
    def parts(filter_: str) -> tuple[str | None, str]:
        if filter_.startswith("$share/"):
            _, group, inner = filter_.split("/", 2)
            return group, inner
        return None, filter_

    group, inner = parts(asked)
    return any(
        (parts(grant)[0] == group or (group is not None and parts(grant)[0] == "+"))
        and yes(ask("covers", parts(grant)[1], inner))
        for grant in grants
    )


@checked
@given(grants=GRANTS, group=st.sampled_from([None, "g", "h", "k"]), inner=VALID)
def test_granted_subscriptions_agree_with_the_model(ask: Ask, grants: list[str], group: str | None, inner: str) -> None:
    asked = inner if group is None else f"$share/{group}/{inner}"
    expected = subscription_is_granted(grants, asked, ask)
    assert yes(ask("granted", json.dumps(grants), asked)) == expected


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(alphabet='ab/+#"\\ é', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@checked
@given(value=JSON_VALUES, compact=st.booleans())
def test_only_lists_of_valid_filters_are_accepted(ask: Ask, value: object, compact: bool) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":") if compact else None)
    if isinstance(value, list) and all(
        isinstance(item, str) and is_valid(item) and not set(item) & set('"\\') for item in value
    ):
        assert ask("filters", text).split("\t") == [str(len(value)), *value]
    else:
        assert ask("filters", text) == "no"


@checked
@given(text=st.text(alphabet='[]",/a+# \\{}', max_size=16))
def test_invalid_json_is_refused(ask: Ask, text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        assert ask("filters", text) == "no"
    else:
        taken = ask("filters", text)
        assert taken == "no" or taken.split("\t")[1:] == value


# --- names --------------------------------------------------------------------------------------------

NAMES = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\t\n\0"), max_size=12)


@checked
@given(name=NAMES | st.text(alphabet="ab+#/\x1f\x7f", max_size=4))
def test_name_validity_agrees_with_the_model(ask: Ask, name: str) -> None:
    control = any(ord(character) < 32 or ord(character) == 127 for character in name)
    assert yes(ask("name", name)) == (bool(name) and not control and not set(name) & set("+#/"))


@checked
@given(name=st.sampled_from(["a", "ab", "a.b"]), id_=st.text(alphabet="ab./+#", max_size=6))
def test_ownership_of_client_ids_agrees_with_the_model(ask: Ask, name: str, id_: str) -> None:
    owns = (id_ == name or id_.startswith(f"{name}/")) and not set(id_) & set("+#")
    assert yes(ask("owns", name, id_)) == owns


def test_client_id_longer_than_512_bytes_is_refused(ask: Ask) -> None:
    assert yes(ask("owns", "a", "a/" + "b" * 510))
    assert not yes(ask("owns", "a", "a/" + "b" * 511))


@checked
@given(
    id_=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\t\n\0"), max_size=100)
    | st.text(alphabet="a\x1b\x7f\x80\x85\x9b\xa0\xe9", max_size=70)
)
def test_logged_client_ids_are_short_and_harmless(ask: Ask, id_: str) -> None:
    shown = ask("log", id_)
    assert len(shown.encode(errors="surrogateescape")) < 64
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F for character in shown)
    whole = "".join("?" if ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F else c for c in id_)
    assert whole.startswith(shown)
    assert len(id_.encode()) > 60 or whole == shown


def test_token_used_as_a_client_id_is_not_logged(ask: Ask) -> None:
    token = load_key("k" * 48).encode({"sub": "x"})
    private = "-----BEGIN PRIVATE KEY-----"
    for text in (token, f"joe/{token}", token[:40], token.split(".")[1], private, "x" * 100 + token):
        assert ask("log", text) == "(not shown)"


# --- tokens -------------------------------------------------------------------------------------------

SECRET = "s" * 48
NOW = 1_800_000_000
GOOD = {"sub": "joe", "nbf": NOW - 30, "exp": NOW + 60, "role": "admin", "subs": ["/test/#"], "publ": []}


@checked
@given(
    claim=st.sampled_from(sorted(GOOD)),
    value=JSON_VALUES | st.floats(allow_nan=False) | st.just(NOW + 60),
)
def test_claims_of_any_type_are_validated(ask: Ask, claim: str, value: object) -> None:
    answer = ask("token", SECRET, str(NOW), load_key(SECRET).encode(GOOD | {claim: value}))
    claims = GOOD | {claim: value}
    times = [claims[name] for name in ("exp", "nbf")]
    sound = (
        all(type(moment) is int for moment in times)
        and claims["exp"] > NOW >= claims["nbf"]  # type: ignore[operator]
        and all(isinstance(claims[name], str) for name in ("sub", "role"))
        and yes(ask("name", str(claims["sub"])))
        and all(isinstance(claims[name], list) for name in ("subs", "publ"))
        and all(ask("filters", json.dumps(claims[name], ensure_ascii=False)) != "no" for name in ("subs", "publ"))
    )
    assert answer.startswith("good ") == sound, answer


@checked
@given(data=st.data())
def test_token_changed_at_any_position_is_refused(ask: Ask, data: st.DataObject) -> None:
    token = load_key(SECRET).encode(GOOD)
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.sampled_from("ABCXYZabcxyz0189-_.!").filter(lambda character: character != token[at]))
    changed = token[:at] + new + token[at + 1 :]
    assert ask("token", SECRET, str(NOW), token) == "good joe"
    assert ask("token", SECRET, str(NOW), changed).startswith("the token is not signed")


@checked
@given(token=st.text(alphabet="eyJhbGciOiJ.=_-{}\x01é", max_size=80))
def test_garbage_is_refused_as_a_token(ask: Ask, token: str) -> None:
    assert ask("token", SECRET, str(NOW), token).startswith("the token is not signed")


@pytest.mark.parametrize(("moment", "good"), [(-31, False), (-30, True), (0, True), (59, True), (60, False)])
def test_token_is_valid_from_nbf_until_just_before_exp(ask: Ask, moment: int, good: bool) -> None:
    answer = ask("token", SECRET, str(NOW + moment), load_key(SECRET).encode(GOOD))
    assert answer.startswith("good ") is good


# --- the table of grants ------------------------------------------------------------------------------


class Table(RuleBasedStateMachine):
    """Clients connect, take over, leave and are forgotten, keys are withdrawn and tokens revoked; dictionaries are the
    model."""

    ids = st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 3)).map(lambda pair: f"{pair[0]}/{pair[1]}")

    def __init__(self) -> None:
        super().__init__()
        self.ask = Harness()
        self.client: dict[str, str | None] = {}
        self.former: dict[str, str] = {}
        self.left: dict[str, int] = {}
        self.looked: dict[str, int | None] = {}
        self.key: dict[str, int] = {}
        self.issued: dict[str, int] = {}
        self.withdrawn: set[str] = set()
        self.revoked: set[str] = set()
        self.strangers: dict[str, str] = {}
        """Connections whose token was withdrawn before another client connected with their id."""
        self.now = 0
        self.objects = itertools.cycle(str(number) for number in range(1, 250))

    def teardown(self) -> None:
        self.ask.close()

    @rule(id_=ids, key=st.sampled_from([1, 2]), issued=st.integers(0, 3))
    def enter(self, id_: str, key: int, issued: int) -> None:
        new = next(self.objects)
        assert yes(self.ask("enter", id_, new, str(key), str(issued)))
        if current := self.client.get(id_):
            self.former[id_] = current
        if id_ in self.withdrawn and (before := self.former.pop(id_, None)):
            self.strangers[id_] = before
        self.client[id_], self.key[id_], self.issued[id_] = new, key, issued
        self.left.pop(id_, None)
        self.withdrawn.discard(id_)
        self.revoked.discard(id_)

    @rule(id_=ids, stale=st.booleans())
    def leave(self, id_: str, stale: bool) -> None:
        current = self.client.get(id_)
        gone = self.former.get(id_) if stale else current
        self.ask("leave", id_, gone or "0", str(self.now))
        if gone and gone == current:
            self.client[id_], self.former[id_], self.left[id_] = None, gone, self.now
            self.looked[id_] = None

    @rule(passed=st.sampled_from([1, LOOK_SECONDS - 1, LOOK_SECONDS, 24 * 3600, 4 * 24 * 3600]), kept=st.sets(ids))
    def forget(self, passed: int, kept: set[str]) -> None:
        self.now += passed
        self.ask("forget", str(self.now), "".join(f",{id_}," for id_ in kept))
        for id_, left in list(self.left.items()):
            looked = self.looked[id_]
            is_due = looked is None or self.now - looked >= LOOK_SECONDS
            if self.now - left > REMEMBERED_SECONDS or (is_due and id_ not in kept):
                for known in (self.client, self.left, self.key, self.issued):
                    del known[id_]
                self.former.pop(id_, None)
                self.withdrawn.discard(id_)
                self.revoked.discard(id_)
            elif is_due:
                self.looked[id_] = self.now

    @rule(good=st.sampled_from([1, 2]))
    def withdraw(self, good: int) -> None:
        self.ask("withdraw", str(good))
        self.withdrawn |= {id_ for id_, key in self.key.items() if key != good}

    @rule(name=st.sampled_from(["ann", "bob", "an"]), until=st.integers(0, 3))
    def revoke(self, name: str, until: int) -> None:
        self.ask("revoke", name, str(until))
        hit = {id_ for id_, issued in self.issued.items() if id_.startswith(f"{name}/") and issued <= until}
        self.withdrawn |= hit
        self.revoked |= hit

    @precondition(lambda self: any(self.client.values()))
    @rule()
    def end_all(self) -> None:
        ended = set()
        while (id_ := self.ask("end", "1000")) != "none":
            ended.add(id_)
        # Each client is ended once; one that stays is not ended again until it has connected again.
        assert ended <= {id_ for id_, current in self.client.items() if current}
        assert self.ask("end", "1000") == "none"
        assert self.ask("end", "0") == "none"

    @rule()
    def end_those_without_a_key(self) -> None:
        ended = set()
        while (id_ := self.ask("end", "0")) != "none":
            ended.add(id_)
        assert ended <= {id_ for id_ in self.withdrawn if self.client.get(id_)}

    def rights(self, id_: str) -> str:
        if id_ in self.revoked:
            return "revoked"
        return "withdrawn" if id_ in self.withdrawn else "good"

    @invariant()
    def they_agree(self) -> None:
        for name, number in itertools.product(["ann", "bob"], range(4)):
            id_ = f"{name}/{number}"
            seen = {}
            for pointer in (self.client.get(id_), self.former.get(id_)):
                if pointer:
                    seen[pointer], rights, count = self.ask("show", id_, pointer).split("\t")
                    assert int(count) == len(self.client)
                    assert rights == self.rights(id_)
            expected = {self.former[id_]: "departed"} if id_ in self.former else {}
            if current := self.client.get(id_):
                expected[current] = "connected"
            assert seen == expected
            if id_ not in self.client:
                assert self.ask("show", id_, "0").startswith("unknown")
            elif id_ in self.strangers:
                assert self.ask("show", id_, self.strangers[id_]).startswith("stranger")

    @invariant()
    def sessions_are_counted(self) -> None:
        for name in ("ann", "bob"):
            counted = {id_ for id_ in self.client if id_.startswith(name)} - self.withdrawn
            assert self.ask("sessions", name) == str(len(counted))


def test_table_of_grants_agrees_with_the_model() -> None:
    run_state_machine_as_test(Table, settings=examples(20, stateful_step_count=30))


def test_session_is_looked_up_after_its_client_leaves_and_then_hourly() -> None:
    ask = Harness()

    def is_known_at(moment: int, kept: str) -> bool:
        ask("forget", str(moment), kept)
        return not ask("show", "ann/0", "1").startswith("unknown")

    def come_and_go(moment: int) -> None:
        ask("enter", "ann/0", "1", "1")
        ask("leave", "ann/0", "1", str(moment))

    come_and_go(1000)
    assert not is_known_at(1000, "")
    come_and_go(2000)
    assert is_known_at(2000, ",ann/0,")
    assert is_known_at(2000 + 3599, "")
    come_and_go(5599)
    assert is_known_at(5599, ",ann/0,")
    come_and_go(5599)
    assert not is_known_at(5599, ""), "what was seen before is of no use once it has been back"
    come_and_go(10_000)
    assert is_known_at(10_000, ",ann/0,")
    assert not is_known_at(10_000 + 3600, "")
    come_and_go(20_000)
    assert is_known_at(20_000 + 3 * 24 * 3600, ",ann/0,")
    assert not is_known_at(20_001 + 3 * 24 * 3600, ",ann/0,")
    ask.close()


def test_table_of_grants_holds_ten_thousand_clients() -> None:
    ask = Harness()
    count = 10_000
    assert set(ask.many([("enter", f"name{number}", "1", "1") for number in range(count)])) == {"yes"}
    assert set(ask.many([("show", f"name{number}", "1") for number in range(count)])) == {f"connected\tgood\t{count}"}
    ask.close()

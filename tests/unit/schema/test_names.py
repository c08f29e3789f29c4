"""Test names of environments and monitors: which are valid, and the error about others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.names import ENVIRONMENTS, InvalidName, check_monitor_name, parse_environment, short_name

GOOD = [
    "uspao1-21wase0.test.mon.ntppool.dev",
    "a.prod.b",
    "0.devel.x.y.z",
    "test.test.test",
    f"{'a' * 63}.prod.{'b' * 63}.dev",
]
BAD = [
    "",
    "short",
    "a.b.c",
    "a.test",
    "a.test.",
    ".test.dev",
    "a..test.dev",
    "a.Test.dev",
    "A.test.dev",
    "a.test.dev.",
    " a.test.dev",
    "a.test.dev\n",
    "a_b.test.dev",
    "-a.test.dev",
    "a-.test.dev",
    "a.test.-dev",
    "a/b.test.dev",
    "a.test.dev/b",
    "+.test.dev",
    "#",
    "a.test.d\x00v",
    "ä.test.dev",
    "a.b.test.dev",  # the environment must be the second label
    f"{'a' * 64}.test.dev",
    f"a.test.{'b.' * 130}dev",
]


@pytest.mark.parametrize("name", GOOD)
def test_valid_monitor_names_are_accepted(name: str) -> None:
    assert check_monitor_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_invalid_monitor_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName, match=r"must be <short>\.<env>\.<domain>"):
        check_monitor_name(name)


def test_a_name_of_another_environment_is_refused_and_both_are_named() -> None:
    assert check_monitor_name("a.test.dev", "test") == "a.test.dev"
    with pytest.raises(InvalidName, match=r"'a\.prod\.dev': belongs to prod, not to test"):
        check_monitor_name("a.prod.dev", "test")


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_valid_environments_are_accepted(env: str) -> None:
    assert parse_environment(env) == env


@pytest.mark.parametrize("text", ["", "Prod", "production", "test ", "prod|test", "."])
def test_invalid_environments_are_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="must be one of prod, test, devel"):
        parse_environment(text)


def test_short_name_ends_before_the_first_dot() -> None:
    assert [short_name(name) for name in ("a-1.test.mon.dev", "recentmedian", "")] == ["a-1", "recentmedian", ""]


@given(st.text())
def test_accepted_names_are_safe_in_topics_tokens_and_files(text: str) -> None:
    try:
        name = check_monitor_name(text)
    except InvalidName as error:
        assert len(str(error)) < 1_500  # a long name is quoted only in part
        return
    assert name.isascii()
    assert not set(name) & set("+#/\0\n $\\")


@given(st.text(st.sampled_from("ab0-.+/#\n"), max_size=20), st.sampled_from(ENVIRONMENTS))
def test_every_part_of_an_accepted_name_is_a_domain_label(short: str, env: str) -> None:
    try:
        name = check_monitor_name(f"{short}.{env}.mon.dev")
    except InvalidName:
        return
    assert all(label and not label.startswith("-") and not label.endswith("-") for label in name.split("."))

"""Test which addresses operators may have measured."""

import re

import pytest

from api.ops.target import Target, WrongTarget, parse_target, port_of
from schema.names import ENVIRONMENTS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *(
            ("127.0.0.1", "loopback"),
            ("10.1.2.3", "private"),
            ("192.168.1.1", "private"),
            ("169.254.1.1", "link-local"),
        ),
        *(("100.64.0.1", "NAT"), ("192.0.2.1", "documentation"), ("::1", "loopback"), ("fd00::1", "private")),
        *(("fe80::1", "link-local"), ("64:ff9b::7f00:1", "loopback"), ("2002:0a01:0203::1", "private")),
    ],
)
def test_private_addresses_are_measured_in_devel_only(text: str, words: str) -> None:
    for env in ("prod", "test"):
        with pytest.raises(WrongTarget, match=words):
            parse_target(env, text)  # type: ignore[arg-type]  # an environment
    assert parse_target("devel", text).ip == text.replace("0a01:0203", "a01:203")


@pytest.mark.parametrize("env", ENVIRONMENTS)
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "time.example", "8.8.4.4 ", "8.8.4", "8.8.4.4/32", "8.8.4.4:123", "[2001:4860::1]", "0x8080404"),
        *(
            "224.0.1.1",
            "ff02::101",
            "0.0.0.0",
            "::",
            "fe80::1%eth0",
            "::ffff:8.8.4.4",
            "\x1b[2J",
            "8.8.4.4\n",
            "9" * 999,
        ),
    ],
)
def test_what_is_not_the_address_of_one_host_is_refused(env: str, text: str) -> None:
    with pytest.raises(WrongTarget) as caught:
        parse_target(env, text)  # type: ignore[arg-type]  # an environment
    assert re.fullmatch(r"[ -~]{1,200}\.", str(caught.value))


def test_public_addresses_are_brought_into_canonical_form() -> None:
    assert parse_target("prod", "8.8.4.4") == Target("8.8.4.4", "v4")
    assert parse_target("prod", "2001:4860:4860:0:0:0:0:8844") == Target("2001:4860:4860::8844", "v6")


def test_other_ports_count_in_devel_only() -> None:
    assert port_of("devel", '{"port": 1123}') == 1123
    for flags in ("", "{}", "[]", "nonsense", "[" * 99_999, '{"port": true}', '{"port": 0}', '{"port": "9"}'):
        assert port_of("devel", flags) == 123
    assert port_of("prod", '{"port": 1123}') == 123

"""Test which addresses an agent probes, and which it always refuses."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ntp.targets import Target, TargetRefused, TargetRules

PROD = TargetRules("prod")
DEVEL = TargetRules("devel", allow_private=True)


@pytest.mark.parametrize("ip", ["8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses_may_be_probed(ip: str) -> None:
    assert PROD.check(ip) == Target(ip, 123, "v6" if ":" in ip else "v4")


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "not a public address: a private"),
        ("172.16.0.1", "not a public"),
        ("192.168.1.1", "not a public"),
        ("100.64.0.1", "not a public"),
        ("fd00::1", "not a public"),
        ("fec0::1", "site-local"),
        ("::8.8.8.8", "IPv4-compatible"),
        ("64:ff9b::a00:1", "private"),
        ("64:ff9b:1::808:808", "local NAT64"),
        ("2002:a00:1::1", "private"),
        ("192.0.0.9", "protocol"),
        ("192.0.2.1", "documentation"),
        ("240.0.0.1", "reserved"),
        ("0.1.2.3", "this network"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "bound to an interface"),
        ("224.0.1.1", "multicast"),
        ("ff02::101", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "not a public"),
        ("::ffff:8.8.8.8", "IPv4 address"),
        ("example.org", "not an IP address"),
        ("8.8.8.8:123", "not an IP address"),
        ("", "not an IP address"),
        ("1" * 10_000, "not an IP address"),
    ],
)
@pytest.mark.parametrize("rules", [PROD, TargetRules("test"), TargetRules("devel"), TargetRules("prod", True)])
def test_other_addresses_are_refused_with_the_reason(rules: TargetRules, ip: str, why: str) -> None:
    with pytest.raises(TargetRefused, match=why) as refused:
        rules.check(ip)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.1.2.3", "::1", "fd00::1"])
def test_private_addresses_are_allowed_in_devel(ip: str) -> None:
    assert DEVEL.check(ip).ip == ip


@pytest.mark.parametrize("ip", ["224.0.1.1", "0.0.0.0", "::", "ff02::101", "::ffff:127.0.0.1"])
def test_addresses_of_no_host_are_refused_even_in_devel(ip: str) -> None:
    with pytest.raises(TargetRefused):
        DEVEL.check(ip)


def test_other_ports_are_allowed_in_devel_only() -> None:
    assert DEVEL.check("8.8.8.8", 11123).port == 11123
    with pytest.raises(TargetRefused, match="devel only"):
        PROD.check("8.8.8.8", 11123)


def test_address_must_match_the_protocol() -> None:
    with pytest.raises(TargetRefused, match="IPv6"):
        PROD.check("8.8.8.8", ipv="v6")


@pytest.mark.parametrize(
    ("text", "ip", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 123),
        ("127.0.0.1:11123", "127.0.0.1", 11123),
        ("::1", "::1", 123),
        ("[::1]", "::1", 123),
        ("[::1]:11123", "::1", 11123),
    ],
)
def test_base_check_is_parsed_with_or_without_a_port(text: str, ip: str, port: int) -> None:
    target = DEVEL.parse(text)
    assert (target.ip, target.port) == (ip, port)
    assert DEVEL.parse(str(target)) == target


@pytest.mark.parametrize("text", ["", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1", "[::1]x"])
def test_malformed_base_checks_are_refused(text: str) -> None:
    with pytest.raises(TargetRefused):
        DEVEL.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(TargetRefused):
        assert DEVEL.parse(text).port > 0

"""Test that programs are recognised, and told nothing but fixed options and the address."""

from itertools import pairwise

import pytest

from agent.traceroute.programs import FREEBSD_V6, KINDS, Kind, arguments, kind_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Modern traceroute for Linux, version 2.1.2\nCopyright (c) 2016  Dmitry Butskoy", 0),
        ("traceroute (GNU inetutils) 2.4\n", 1),
        ("traceroute: unrecognized option '--version'\nBusyBox v1.35.0 (Debian) multi-call binary.\n", 2),
        ("traceroute: illegal option -- -\nVersion 1.4a12+FreeBSD\nUsage: traceroute [-adDeEFInrSvx]", 3),
    ],
)
def test_programs_are_recognised_by_what_they_say_of_themselves(text: str, number: int) -> None:
    assert kind_of(text) is KINDS[number]


@pytest.mark.parametrize("text", ["", "Usage: traceroute host", "traceroute 1.4a12"])
def test_unknown_programs_are_not_used(text: str) -> None:
    assert kind_of(text) is None


@pytest.mark.parametrize("kind", [*KINDS, FREEBSD_V6], ids=lambda kind: kind.sign or "FreeBSD, IPv6")
def test_arguments_are_options_that_bound_it_and_end_with_the_address(kind: Kind) -> None:
    assert next(iter(kind.methods)) == "udp", "which is how NTP gets there"
    for method in kind.methods:
        given = arguments(kind, method, "9.9.9.9", "192.0.2.1")
        assert given[-1] == "9.9.9.9" and given.count("9.9.9.9") == 1
        assert ("-m", "30") in pairwise(given) or "--max-hop=30" in given
        assert (kind.source is None) == ("192.0.2.1" not in given)
        assert "192.0.2.1" not in arguments(kind, method, "9.9.9.9", None)
        names_are_off = "-n" in given or kind.sign == "GNU inetutils"  # which resolves none unless told to
        assert names_are_off


def test_udp_and_tcp_go_to_the_port_of_ntp() -> None:
    for kind in (*KINDS, FREEBSD_V6):
        for method, own in kind.methods.items():
            assert (method == "icmp") != ("123" in own or "--port=123" in own)

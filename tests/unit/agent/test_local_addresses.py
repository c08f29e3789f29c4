"""Test the list of local addresses for the API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.local_addresses import parse_local_addresses


def test_one_address_for_each_protocol() -> None:
    assert parse_local_addresses("") == {} == parse_local_addresses(" , ")
    assert parse_local_addresses(" 192.0.2.1 ") == {"v4": "192.0.2.1"}
    assert parse_local_addresses("2001:DB8::0001,192.0.2.1") == {"v6": "2001:db8::1", "v4": "192.0.2.1"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("192.0.2.1,192.0.2.2", "at most one address of IPv4"),
        ("::1, ::2", "at most one address of IPv6"),
        ("host.example", "'host.example' is not an IP address"),
        ("192.0.2.0/24", "is not an IP address"),
        ("0.0.0.0", "is not the address of one host"),
        ("ff02::1", "is not the address of one host"),
        ("::ffff:192.0.2.1", "is not the address of one host"),
        ("fe80::1%eth0", "is not the address of one host"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_local_addresses(text)


@given(st.one_of(st.text(max_size=40), st.lists(st.ip_addresses().map(str), max_size=4).map(",".join)))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_local_addresses(text)
    except ValueError:
        return
    assert parse_local_addresses(",".join(found.values())) == found

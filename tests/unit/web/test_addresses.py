"""Test how a server may be written."""

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.addresses import Asked, canonical, parse_server


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("17", Asked(id=17)),
        (" 17 ", Asked(id=17)),
        ("4294967296", Asked()),
        ("99999999999999999999", Asked()),
        ("192.0.2.7", Asked(ip="192.0.2.7")),
        ("::ffff:192.0.2.7", Asked(ip="192.0.2.7")),
        ("[2001:DB8:0::7]", Asked(ip="2001:db8::7")),
        ("2001:db8::7%eth0", Asked()),
        ("fe80::1%25", Asked()),
        ("192.0.2.007", Asked()),
        ("192.0.2", Asked()),
        ("NTP.Example.net.", Asked(hostname="ntp.example.net")),
        ("a" * 64 + ".net", Asked()),
        ("a b", Asked()),
        ("<script>", Asked()),
        ("٣", Asked()),
        ("", Asked()),
    ],
)
def test_spellings(text: str, asked: Asked) -> None:
    assert parse_server(text) == asked


@given(st.ip_addresses())
def test_every_spelling_of_an_address_has_one_canonical_form(address: object) -> None:
    text = str(address)
    found = canonical(text)
    assert found is not None and canonical(found) == found
    if isinstance(address, IPv6Address):
        assert canonical(address.exploded) == canonical(text.upper()) == found
        assert ip_address(found) in (address, address.ipv4_mapped)


@given(st.text(max_size=40))
def test_any_text_means_at_most_one_thing(text: str) -> None:
    asked = parse_server(text)
    assert sum(part is not None for part in (asked.id, asked.ip, asked.hostname)) <= 1

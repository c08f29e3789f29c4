"""Test what is published of a log row's attributes: error texts never have the address of a monitor."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.attributes import MAX_ERROR, REMOVED, Attributes, public_text, read_attributes

SERVER = "192.0.2.7"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bad stratum 0", "bad stratum 0"),
        ("root distance 3.2 s", "root distance 3.2 s"),
        (f"read udp 10.0.0.5:4711->{SERVER}:123: i/o timeout", f"read udp {REMOVED}->{SERVER}:123: i/o timeout"),
        ("from 2001:db8::1%eth0.", f"from {REMOVED}%eth0."),
        (f"10.{SERVER}.", f"{REMOVED}."),
        (f"{SERVER}0", REMOVED),
        ("::ffff:10.0.0.5", REMOVED),
        ("failed... again", "failed... again"),
    ],
)
def test_only_the_servers_address_stays(text: str, shown: str) -> None:
    assert public_text(text, SERVER) == shown


@given(
    st.ip_addresses(),
    st.text("abcdef 0123456789:.[]()->%", max_size=20),
    st.text('ghij ()[]>-%"\n', max_size=20),
    st.integers(1, 65535),
)
def test_no_address_passes(address: object, before: str, after: str, port: int) -> None:
    if str(address).lower() in ("::", "::1", SERVER):
        return
    for text in (f"{before}{address}{after}", f"{before}[{address}]:{port}{after}", f"{before}{address}:{port}{after}"):
        assert str(address) not in public_text(text, SERVER)


@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=200))
def test_long_texts_are_cut_after_their_addresses_are_removed(addresses: list[object]) -> None:
    shown = public_text(" ".join(map(str, addresses)), SERVER)
    assert len(shown) <= MAX_ERROR and set(shown) <= set(f"{REMOVED} {SERVER}")


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (None, Attributes(0, "")),
        ("", Attributes(0, "")),
        ("{", Attributes(0, "")),
        ("[]", Attributes(0, "")),
        ("[" * 100_000, Attributes(0, "")),
        ({"leap": 3, "error": "RATE"}, Attributes(3, "RATE")),
        ({"leap": 0}, Attributes(0, "")),
        ({"leap": True, "error": 7}, Attributes(0, "")),
        ({"leap": 4}, Attributes(0, "")),
        ({"leap": "1"}, Attributes(0, "")),
    ],
)
def test_invalid_attributes_are_not_published(stored: Any, found: Attributes) -> None:
    text = json.dumps(stored) if isinstance(stored, dict) else stored
    assert read_attributes(text, SERVER) == found

"""Test API keys: their form, and that only the key itself, under a known pepper, matches a hash."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.api_keys import (
    Audience,
    InvalidPepper,
    KeyText,
    Peppers,
    derive_pepper,
    generate,
    hash_key,
    matching_pepper,
    parse_key,
)
from testbed.random_inputs import examples

OLD, NEW = derive_pepper("o" * 40), derive_pepper("n" * 40)


def test_key_has_256_random_bits_of_which_the_lookup_shows_44() -> None:
    keys = {generate().clear for _ in range(100)}
    assert len(keys) == 100
    for text in keys:
        key = parse_key(text)
        assert key is not None and text.startswith("ntpm_") and len(bytes.fromhex(text[5:])) == 32
        assert len(key.lookup) == 16 and text.startswith(key.lookup)


def test_audience_is_in_the_prefix() -> None:
    assert [generate(audience).audience for audience in Audience] == list(Audience)


@given(st.text() | st.from_regex(r"ntp[ma]_[0-9a-f]{60,68}\n?", fullmatch=True))
@examples(100)
def test_only_well_formed_keys_are_parsed(text: str) -> None:
    well_formed = len(text) == 69 and text[:5] in ("ntpm_", "ntpa_") and set(text[5:]) <= set("0123456789abcdef")
    assert (parse_key(text) is not None) == well_formed


def test_key_and_pepper_are_in_no_repr() -> None:
    key = generate()
    assert key.clear[5:] not in f"{key!r} {key} {[key]}"
    assert OLD.material.hex() not in f"{OLD!r}{Peppers(OLD)!r}" and str(OLD.material) not in f"{Peppers(OLD)!r}"


def test_hash_depends_on_key_and_pepper_and_reveals_neither() -> None:
    key = generate()
    hashed = hash_key(key, NEW)
    assert len(hashed) <= 256 and key.clear[5:] not in hashed
    assert hashed not in (hash_key(key, OLD), hash_key(generate(), NEW))
    assert hashed != hash_key(key, replace(NEW, material=OLD.material)), "not by the pepper's name alone"


def test_former_pepper_is_accepted_and_an_unknown_one_is_not() -> None:
    key = generate()
    assert matching_pepper(key, hash_key(key, OLD), Peppers(NEW, (OLD,))) is OLD
    assert matching_pepper(key, hash_key(key, NEW), Peppers(NEW, (OLD,))) is NEW
    assert matching_pepper(key, hash_key(key, OLD), Peppers(NEW)) is None


@given(st.text(max_size=100))
@examples(50)
def test_no_other_text_in_the_ledger_matches(hashed: str) -> None:
    assert matching_pepper(KeyText("ntpm_" + "0" * 64), hashed, Peppers(NEW, (OLD,))) is None


def test_short_pepper_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidPepper, match="has 7 bytes; needs at least 32") as refusal:
        derive_pepper(" hunter2 ")
    assert "hunter2" not in str(refusal.value)

"""Test the secret of a registration: its form, and that it alone reveals a sealed key."""

from hypothesis import given
from hypothesis import strategies as st

from auth.api_keys import Peppers, derive_pepper, generate
from auth.registration.secret import new_verification_token, parse_registration_id, seal, unseal
from testbed.fixtures.registering import new_id
from testbed.random_inputs import examples

OLD, NEW = derive_pepper("o" * 40), derive_pepper("n" * 40)
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_id_is_a_ulid_in_either_case() -> None:
    one, other = parse_registration_id(ULID), parse_registration_id(ULID.lower())
    assert one is not None and one == other


@given(st.text(max_size=30) | st.from_regex(r"[0-9A-Z]{26}", fullmatch=True))
@examples(100)
def test_anything_else_is_refused(text: str) -> None:
    ulid = len(text) == 26 and text.isascii() and text[0] in "01234567" and not set(text.upper()) & set("ILOU")
    assert (parse_registration_id(text) is not None) == (ulid and text.isalnum())


def test_id_is_in_no_repr_and_not_in_its_hash() -> None:
    one = parse_registration_id(ULID)
    assert one is not None
    assert ULID not in f"{one!r} {one}" and ULID.lower() not in one.hashed.lower() and len(one.hashed) <= 128


def test_verification_tokens_have_32_characters_and_differ_in_either_case() -> None:
    tokens = {new_verification_token() for _ in range(100)}
    assert len(tokens) == 100 and all(len(one) == 32 and one == one.lower() for one in tokens)


def test_sealed_key_is_revealed_to_its_registration_only() -> None:
    key, mine, peppers = generate(), new_id(), Peppers(NEW)
    sealed = seal(key, mine, "t" * 32, peppers)
    assert key.clear[5:] not in sealed and len(sealed) <= 255
    assert unseal(sealed, mine, "t" * 32, peppers) == key
    assert unseal(sealed, new_id(), "t" * 32, peppers) is None
    assert unseal(sealed, mine, "u" * 32, peppers) is None
    assert unseal(sealed, mine, "t" * 32, Peppers(OLD)) is None


def test_pepper_may_be_rotated_while_a_key_is_sealed() -> None:
    key, mine = generate(), new_id()
    assert unseal(seal(key, mine, "t" * 32, Peppers(OLD)), mine, "t" * 32, Peppers(NEW, (OLD,))) == key


@given(st.text(max_size=60))
@examples(50)
def test_no_other_text_in_the_ledger_is_a_key(sealed: str) -> None:
    assert unseal(sealed, new_id(), "t" * 32, Peppers(NEW)) is None

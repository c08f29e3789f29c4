"""Test that a sealed text opens with its own secret, salt, purpose and pepper only."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from auth.api_keys import Peppers, derive_pepper
from auth.sealing import Lock, seal, unseal
from testbed.random_inputs import examples

OLD = derive_pepper("a first secret that is long enough")
NEW = derive_pepper("a second secret that is long enough")
LOCK = Lock("the secret", "salt", b"purpose")


def test_a_sealed_text_opens_with_its_own_lock_only() -> None:
    sealed = seal("-----BEGIN", LOCK, Peppers(OLD))
    assert unseal(sealed, LOCK, Peppers(OLD)) == unseal(sealed, LOCK, Peppers(NEW, (OLD,))) == "-----BEGIN"
    assert unseal(sealed, LOCK, Peppers(NEW)) is None
    for other in (replace(LOCK, secret="x"), replace(LOCK, salt="x"), replace(LOCK, purpose=b"x")):
        assert unseal(sealed, other, Peppers(OLD)) is None
    assert sealed != seal("-----BEGIN", LOCK, Peppers(OLD)), "never the same twice"
    assert "secret" not in repr(LOCK)


@examples(200)
@given(st.text(max_size=100))
def test_garbage_opens_nothing(sealed: str) -> None:
    assert unseal(sealed, LOCK, Peppers(OLD)) is None

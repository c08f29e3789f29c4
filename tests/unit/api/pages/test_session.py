"""Test the cookies of sessions: only ours are read, and only in their time."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pages.session import (
    ATTEMPT_LIFE,
    SESSION_LIFE,
    VISIT_LIFE,
    KeyLogin,
    Seals,
    Session,
    UserLogin,
    new_attempt,
    new_session,
    same_text,
)
from testbed.random_inputs import examples

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SEALS = Seals(b"0123456789abcdef0123456789abcdef")
USER = UserLogin(7, "https://login.example", "248289761001", "anna@example.org")
LOGINS = st.one_of(
    st.none(),
    st.builds(KeyLogin, key_id=st.integers(1, 2**32)),
    st.builds(UserLogin, *(st.integers(1, 2**32), st.text(max_size=255), st.text(max_size=255), st.text(max_size=255))),
)


@given(login=LOGINS, notice=st.text(max_size=100))
@examples(50)
def test_session_is_read_as_it_was_written(login: KeyLogin | UserLogin | None, notice: str) -> None:
    session = Session("an id", int(NOW.timestamp()), login, notice)
    assert SEALS.open_session(SEALS.seal_session(session), NOW) in (session, None)
    short = Session("an id", int(NOW.timestamp()), KeyLogin(1), notice)
    assert SEALS.open_session(SEALS.seal_session(short), NOW) == short


@pytest.mark.parametrize(("login", "life"), [(KeyLogin(1), SESSION_LIFE), (USER, SESSION_LIFE), (None, VISIT_LIFE)])
def test_session_ends_in_time(login: KeyLogin | UserLogin | None, life: timedelta) -> None:
    text = SEALS.seal_session(new_session(NOW, login))
    assert SEALS.open_session(text, NOW + life - SECOND) is not None
    assert SEALS.open_session(text, NOW + life) is None
    assert SEALS.open_session(text, NOW - 120 * SECOND) is None, "it was written by a clock that was wrong"


def test_session_ends_after_twelve_hours() -> None:
    assert timedelta(hours=12) == SESSION_LIFE


def test_every_session_is_another_one() -> None:
    assert len({new_session(NOW, KeyLogin(1)).id for _ in range(100)}) == 100


@given(place=st.integers(0, 10_000), letter=st.sampled_from("Aa0_-.="))
@examples(200)
def test_changed_cookie_is_refused(place: int, letter: str) -> None:
    text = SEALS.seal_session(new_session(NOW, USER))
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    found = SEALS.open_session(changed, NOW)
    assert found is None or found == SEALS.open_session(text, NOW), "spare bits of base64 mean nothing"
    assert SEALS.open_session(text[:place], NOW) is None


@given(text=st.text(max_size=200))
@examples(200)
def test_hostile_cookie_is_refused(text: str) -> None:
    assert SEALS.open_session(text, NOW) is None
    assert SEALS.open_attempt(text, NOW) is None


def test_cookie_of_another_secret_or_purpose_is_refused() -> None:
    session, attempt = new_session(NOW, USER), new_attempt(NOW, "/manage")
    other = Seals(b"0123456789abcdef0123456789abcdeX")
    assert other.open_session(SEALS.seal_session(session), NOW) is None
    assert SEALS.open_attempt(SEALS.seal_session(session), NOW) is None
    assert SEALS.open_session(SEALS.seal_attempt(attempt), NOW) is None
    assert SEALS.open_session("x" * 1_000_000, NOW) is None


def test_login_at_the_provider_ends_after_ten_minutes_and_its_cookie_has_no_secret_of_it() -> None:
    attempt = new_attempt(NOW, "/manage/monitors/x")
    text = SEALS.seal_attempt(attempt)
    assert SEALS.open_attempt(text, NOW + ATTEMPT_LIFE - SECOND) == attempt
    assert SEALS.open_attempt(text, NOW + ATTEMPT_LIFE) is None
    secrets = {SEALS.nonce(attempt), SEALS.verifier(attempt), attempt.state}
    assert len(secrets) == 3 and all(43 <= len(one) <= 128 for one in secrets), "RFC 7636: 43 to 128 characters"
    readable = msgspec.json.encode(attempt).decode() + text
    assert SEALS.nonce(attempt) not in readable and SEALS.verifier(attempt) not in readable
    assert SEALS.nonce(attempt) != SEALS.nonce(new_attempt(NOW, "/manage"))


def test_token_of_a_form_is_that_of_its_session() -> None:
    session, other = new_session(NOW), new_session(NOW)
    token = SEALS.form_token(session)
    assert SEALS.is_form_token(session, token)
    for wrong in ("", token[:-1], token + "0", SEALS.form_token(other), "\ud800", "é", token.upper()):
        assert not SEALS.is_form_token(session, wrong)


def test_nothing_shows_the_secret() -> None:
    assert "0123456789abcdef" not in repr(SEALS)


def test_texts_are_compared_whatever_they_contain() -> None:
    assert same_text("é", "é") and not same_text("é", "e") and not same_text("\ud800", "")

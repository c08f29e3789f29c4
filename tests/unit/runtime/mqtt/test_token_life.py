"""Test when a token is renewed, whatever it contains."""

import base64
import json
import secrets
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.tokens import Role, load_key, sign
from runtime.mqtt.token_life import has_expired, seconds_to_renewal


def token(claims: Any) -> str:
    return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"


def test_a_token_is_renewed_after_two_thirds_of_its_lifetime() -> None:
    signed = sign(load_key(secrets.token_urlsafe(48)), Role.MONITOR, "a.test.mon.example", "test")
    assert 14_390 < seconds_to_renewal(signed) <= 14_400
    now = time.time()
    assert 29 < seconds_to_renewal(token({"iat": now - 30, "exp": now + 60})) <= 30


def test_overdue_token_is_renewed_after_a_second() -> None:
    assert seconds_to_renewal(token({"iat": 0, "exp": 1})) == 1.0


def test_clock_that_is_a_day_behind_does_not_delay_the_renewal() -> None:
    tomorrow = time.time() + 86_400
    assert seconds_to_renewal(token({"iat": tomorrow, "exp": tomorrow + 21_600})) == pytest.approx(14_400)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opaque",
        "a.b.c",
        "a.é.c",
        "a..c",
        token(None),
        token([]),
        token({}),
        token({"iat": "x", "exp": 1}),
        token({"iat": None, "exp": 1}),
        token({"iat": 1, "exp": 10**400}),
        f"a.{base64.urlsafe_b64encode(b'[' * 100_000).decode()}.c",
    ],
)
def test_a_token_of_unknown_lifetime_is_renewed_every_minute(text: str) -> None:
    assert seconds_to_renewal(text) == 60.0
    assert not has_expired(text)


@given(st.text() | st.builds(token, st.dictionaries(st.sampled_from(["iat", "exp"]), st.floats() | st.integers())))
def test_any_token_has_a_renewal_time_of_at_least_a_second(text: str) -> None:
    assert seconds_to_renewal(text) >= 1.0


@pytest.mark.parametrize(("left", "expired"), [(-1, True), (0, True), (60, False)])
def test_expired_token_is_detected(left: int, expired: bool) -> None:
    assert has_expired(token({"iat": 0, "exp": time.time() + left})) is expired

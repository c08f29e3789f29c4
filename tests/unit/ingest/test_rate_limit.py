"""Test the rate limit: it affects neither honest monitors nor drained spools, but excessive senders."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.rate_limit import (
    BURST,
    DRAINING,
    LEAST_RATE,
    MOST_SENDERS,
    REMEMBERED,
    RateLimiter,
    Sender,
    allowed_rate,
)

ALICE: Sender = ("alice.devel.mon.example", "v4")
BOB: Sender = ("bob.devel.mon.example", "v4")


def send(rate_limiter: RateLimiter, sender: Sender, now: float, batches: int, results: int = 10) -> int:
    """Send batches, and return how many were admitted."""
    admitted = 0
    for _ in range(batches):
        if rate_limiter.admits(sender, now):
            rate_limiter.charge(sender, results, now)
            admitted += 1
    return admitted


def test_allowed_rate_is_a_multiple_of_the_assigned_rate() -> None:
    assert allowed_rate(0.0) == LEAST_RATE
    assert allowed_rate(2700 / 540) == 2700 / 540 * DRAINING


def test_burst_is_admitted_and_then_only_the_rate() -> None:
    rate_limiter = RateLimiter()
    burst = int(LEAST_RATE * BURST / 10)
    assert send(rate_limiter, ALICE, 0.0, burst + 50) == burst
    assert send(rate_limiter, ALICE, 0.0, 10) == 0
    assert send(rate_limiter, ALICE, 10.0, 100) == LEAST_RATE
    assert send(rate_limiter, ALICE, 10_000.0, burst + 50) == burst


def test_each_monitor_has_its_own_budget() -> None:
    rate_limiter = RateLimiter()
    send(rate_limiter, ALICE, 0.0, 1000)
    assert not rate_limiter.admits(ALICE, 0.0)
    assert rate_limiter.admits(BOB, 0.0)
    assert rate_limiter.admits((ALICE[0], "v6"), 0.0)


def test_large_batch_is_admitted_but_charged_in_full() -> None:
    rate_limiter = RateLimiter()
    assert send(rate_limiter, ALICE, 0.0, 3, results=1000) == 2
    assert not rate_limiter.admits(ALICE, (2000 - LEAST_RATE * BURST) / LEAST_RATE - 1)
    assert rate_limiter.admits(ALICE, (2000 - LEAST_RATE * BURST) / LEAST_RATE + 1)


def test_empty_batch_is_charged_too() -> None:
    assert send(RateLimiter(), ALICE, 0.0, 10_000, results=0) == LEAST_RATE * BURST


def test_a_monitor_with_many_assignments_may_send_more() -> None:
    rate_limiter = RateLimiter()
    rate_limiter.admits(ALICE, 0.0)
    rate_limiter.rate({ALICE: 100.0, BOB: 1.0})
    assert rate_limiter.senders() == [ALICE]
    assert send(rate_limiter, ALICE, 0.0, 1000) == 100 * BURST / 10


def test_rate_is_looked_up_when_needed_and_again_when_expired() -> None:
    rate_limiter = RateLimiter()
    half = int(LEAST_RATE * BURST / 2 / 10)
    send(rate_limiter, ALICE, 0.0, half)
    send(rate_limiter, BOB, 0.0, 1)
    assert rate_limiter.wanting() == []
    send(rate_limiter, ALICE, 0.0, 1)
    assert rate_limiter.wanting() == [ALICE]
    rate_limiter.rate({ALICE: LEAST_RATE})
    assert rate_limiter.wanting() == []
    rate_limiter.expire_rates()
    assert rate_limiter.wanting() == [ALICE]
    assert rate_limiter.admits(ALICE, LEAST_RATE * BURST)
    assert rate_limiter.wanting() == [], "it has rested, so its rate does not matter any more"


def test_lower_rate_applies_at_once() -> None:
    rate_limiter = RateLimiter()
    rate_limiter.admits(ALICE, 0.0)
    rate_limiter.rate({ALICE: 500.0})
    assert rate_limiter.admits(ALICE, 0.0)
    rate_limiter.rate({ALICE: LEAST_RATE})
    assert send(rate_limiter, ALICE, 0.0, 10_000) == LEAST_RATE * BURST / 10


def test_refusals_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    rate_limiter = RateLimiter()
    with caplog.at_level(logging.WARNING):
        send(rate_limiter, ALICE, 0.0, 130)
    assert rate_limiter.refused() == {"alice.devel.mon.example/v4": 10}
    assert len(caplog.records) == 1
    assert "alice.devel.mon.example/v4" in caplog.text


def test_idle_senders_are_forgotten_and_their_number_is_bounded() -> None:
    rate_limiter = RateLimiter()
    for number in range(MOST_SENDERS + 5):
        rate_limiter.admits((f"m{number}", "v4"), float(number == 7))
    assert len(rate_limiter.senders()) == MOST_SENDERS
    rate_limiter.forget_idle(REMEMBERED)
    assert rate_limiter.senders() == [("m7", "v4")]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), max_size=60), st.floats(1, 500))
def test_admitted_results_never_exceed_burst_plus_rate_plus_one_batch(
    series: list[tuple[float, int]], rate: float
) -> None:
    rate_limiter, now, admitted = RateLimiter(), 0.0, 0
    rate_limiter.admits(ALICE, 0.0)
    rate_limiter.rate({ALICE: rate})
    for pause, results in series:
        now += pause
        if rate_limiter.admits(ALICE, now):
            rate_limiter.charge(ALICE, results, now)
            admitted += results
        assert admitted <= rate * (BURST + now) + 1000 + 1e-6


@given(st.floats(0.001, 5), st.lists(st.floats(0, 50), min_size=1, max_size=50))
def test_monitor_within_its_assigned_rate_is_never_limited(pace: float, gaps: list[float]) -> None:
    rate_limiter, now, owed = RateLimiter(), 0.0, 0.0
    rate_limiter.admits(ALICE, now)
    rate_limiter.rate({ALICE: allowed_rate(pace)})
    for gap in gaps:
        now += gap
        owed += gap * pace
        assert rate_limiter.admits(ALICE, now)
        rate_limiter.charge(ALICE, int(owed), now)
        owed -= int(owed)

"""Test the scorer's back-off: none while it keeps up, at most three quarters of the time, and no lasting backlog."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.db.queue import Backlog
from scorer.back_off import LONGEST, MOST_WAITING, rest_after


def test_there_is_no_rest_without_a_backlog() -> None:
    assert rest_after(0.1, Backlog(0, 5_000)) == 0.0
    assert rest_after(0.1, Backlog(0, 0)) == 0.0


@pytest.mark.parametrize(("due", "expected"), [(1_000, 0.025), (2_500, 0.1), (3_750, 0.3), (5_000, 0.3)])
def test_working_share_equals_the_share_of_servers_not_waiting(due: int, expected: float) -> None:
    assert rest_after(0.1, Backlog(due, 5_000)) == pytest.approx(expected)


@given(st.floats(0.0, 100.0), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_rest_is_bounded(seconds: float, due: int, servers: int) -> None:
    rest = rest_after(seconds, Backlog(min(due, servers), servers))
    assert 0.0 <= rest <= min(LONGEST, seconds * MOST_WAITING / (1.0 - MOST_WAITING) + 1e-9)


@given(st.floats(50.0, 5_000.0), st.floats(0.01, 0.95), st.integers(0, 5_000))
def test_scorer_with_enough_capacity_clears_any_backlog(could: float, share: float, due: int) -> None:
    """Rounds of 200 servers, while results make servers due evenly, at a fraction of the scorer's capacity."""
    servers, waiting, together = 5_000, float(due), 200
    arriving = share * could
    for _ in range(20_000):
        if waiting < together:
            return
        seconds = together / could
        passed = seconds + rest_after(seconds, Backlog(int(waiting), servers))
        waiting = max(0.0, waiting - together) + arriving * passed * (1.0 - waiting / servers)
    pytest.fail(f"{waiting:.0f} servers still wait")

"""Test retries: bounded delays, transient errors until success, and one log line however many tasks wait."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.retry import Delays, Outage, Setback, until_done


class Away(Exception):
    """A transient error."""


def judge(error: Exception) -> Setback | None:
    return Setback(str(error)) if isinstance(error, Away) else None


AT_ONCE = Delays(0.0, 0.0)


def failing(*errors: Exception) -> Callable[[], Any]:
    remaining = list(errors)

    async def attempt() -> str:
        if remaining:
            raise remaining.pop(0)
        return "done"

    return attempt


@pytest.fixture
def clock() -> Any:
    class Clock:
        now = 100.0

        def __call__(self) -> float:
            return self.now

    return Clock()


@given(
    first=st.floats(0.001, 10.0),
    longest=st.floats(0.001, 3600.0),
    jitter=st.floats(0.0, 1.0),
    failures=st.integers(1, 100_000),
)
def test_delays_stay_within_their_bounds(first: float, longest: float, jitter: float, failures: int) -> None:
    """Even after a night of failures, when doubling the delay would overflow a float."""
    undisturbed = Delays(first, longest).after(failures)
    assert undisturbed == pytest.approx(min(longest, first * 2.0 ** min(failures - 1, 60)))
    assert undisturbed * (1.0 - jitter) * 0.999 <= Delays(first, longest, jitter).after(failures) <= undisturbed


def test_delays_double_up_to_the_longest() -> None:
    assert [Delays(2.0, 30.0).after(failures) for failures in range(1, 7)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert len({Delays(2.0, 30.0, jitter=0.5).after(1) for _ in range(10)}) > 1, "chance"


async def test_transient_errors_are_retried_until_success(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert await until_done(failing(*[Away("away")] * 50), judge, AT_ONCE, Outage("database")) == "done"
    assert caplog.messages == ["database: away; waiting for it", "database: works again, after 0 s"]


async def test_other_errors_are_raised_at_once_and_end_the_wait() -> None:
    outage = Outage("database")
    with pytest.raises(KeyError):
        await until_done(failing(Away("away"), KeyError("x"), Away("never")), judge, AT_ONCE, outage)
    assert outage.longest() is None


async def test_a_judge_may_raise_another_error() -> None:
    def strict(error: Exception) -> Setback | None:
        raise LookupError("refused") from error

    with pytest.raises(LookupError) as refused:
        await until_done(failing(Away("away")), strict, AT_ONCE, Outage("database"))
    assert isinstance(refused.value.__cause__, Away)


async def test_cancelled_task_no_longer_counts_as_waiting() -> None:
    outage = Outage("database")
    waiting = asyncio.create_task(until_done(failing(Away("away")), judge, Delays(3600.0, 3600.0), outage))
    while outage.longest() is None:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert outage.longest() is None


def test_outage_is_logged_once_a_minute_however_many_tasks_wait(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage("database", clock)
    for _ in range(150):
        for who in ("results", "presence"):
            outage.failed(who, Setback("away"))
        clock.now += 1
    outage.failed("rates", Setback("locked"))
    outage.succeeded("results")
    outage.succeeded("presence")
    assert caplog.messages == [
        *["database: away; waiting for it"] * 3,
        "database: locked; waiting for it",
        "database: works again, after 150 s",
    ]
    outage.gave_up("rates")
    outage.failed("presence", Setback("away"))
    assert caplog.messages[-1] == "database: away; waiting for it", "another outage is said at once"


def test_longest_wait_is_reported_with_its_reason(clock: Any) -> None:
    outage = Outage("database", clock)
    outage.failed("results", Setback("full"))
    clock.now += 20
    outage.failed("presence", Setback("away"))
    outage.failed("results", Setback("still full"))
    clock.now += 10
    assert outage.longest() == (30.0, "still full")
    outage.succeeded("results")
    assert outage.longest() == (10.0, "away")

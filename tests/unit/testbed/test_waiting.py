"""Test waiting for a condition: its value, the message on failure, and a last check after the deadline."""

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from testbed.waiting import LONGEST_PAUSE_SECONDS, block_until, wait_until, waited_for_cpu

Wait = Callable[..., Awaitable[Any]]


async def _blocking(condition: Callable[[], Any], *arguments: Any, **options: Any) -> Any:
    return block_until(condition, *arguments, **options)


both = pytest.mark.parametrize("wait", [wait_until, _blocking], ids=["wait_until", "block_until"])


@both
async def test_the_first_true_value_is_returned(wait: Wait) -> None:
    looks = iter(["", 0, [], "there", "later"])
    assert await wait(lambda: next(looks)) == "there"


@both
@pytest.mark.parametrize(
    ("what", "words"), [("a reply", "a reply"), (lambda: "3 of 4", "3 of 4"), ("", "lambda: 1 > 2")]
)
async def test_failure_names_the_condition_and_the_time_limit(
    wait: Wait, what: str | Callable[[], str], words: str
) -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: ") as missed:
        await wait(lambda: 1 > 2, what, within=0.01)
    assert words in str(missed.value)


@both
async def test_condition_is_checked_again_after_the_deadline(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may have been stopped for a while, or the machine may be very busy."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def held_up() -> bool:
        before, now[0] = now[0], 9000.0
        return before == 9000.0

    assert await wait(held_up, within=5)


async def test_awaitable_condition_is_awaited_and_other_tasks_run() -> None:
    answers = iter([False, True])
    assert await wait_until(lambda: asyncio.to_thread(lambda: next(answers)))
    turns: list[int] = []

    async def other() -> None:
        turns.append(1)

    task = asyncio.ensure_future(other())
    await wait_until(lambda: turns)
    await task


@both
async def test_pauses_between_checks_grow_up_to_a_maximum(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    now = [1000.0]

    def passes(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds + 0.001

    async def passes_in_turn(seconds: float) -> None:
        passes(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", passes)
    monkeypatch.setattr(asyncio, "sleep", passes_in_turn)
    with pytest.raises(AssertionError):
        await wait(lambda: False, within=3)
    assert pauses[0] == 0.0
    assert pauses[:-1] == sorted(pauses[:-1])
    assert max(pauses) == LONGEST_PAUSE_SECONDS


def test_time_without_a_processor_is_counted_while_the_process_wants_one() -> None:
    """On one processor that two threads want, one of them waits."""
    allowed = os.sched_getaffinity(0)
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)  # without the interpreter's lock

    other = threading.Thread(target=compute)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        before = waited_for_cpu([os.getpid()])
        other.start()
        while waited_for_cpu([os.getpid()]) - before < 0.01:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)
    finally:
        ended.set()
        other.join()
        os.sched_setaffinity(0, allowed)


def test_time_of_a_process_that_has_ended_is_zero() -> None:
    assert waited_for_cpu([2**22 + 1]) == 0.0

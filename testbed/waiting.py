"""Wait in tests for a condition, with a deadline and an explanation of its failure.

A test never sleeps for a fixed time; it calls :func:`wait_until`, or :func:`block_until` outside an event loop.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 90.0
"""Seconds that tests wait for an event without a documented time limit. They pass only if it never happens, however
busy the machine is. A documented limit is tested as such, written out in the test."""

LONGEST_PAUSE_SECONDS: Final = 0.1

Words = str | Callable[[], str]
"""The text of a failure, or a function that describes the situation when the time is over."""


async def wait_until(condition: Callable[[], Any], what: Words = "", *, within: float = PATIENCE) -> Any:
    """Return the first true value of ``condition``, or of what it returns to await (``lambda:
    asyncio.to_thread(ask)``).

    Args:
        what: describes the condition; by default, its source.
        within: seconds before giving up.

    Raises:
        AssertionError: the condition did not become true in time.
    """
    for pause in _pauses(within):
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        await asyncio.sleep(pause)
    raise AssertionError(_missed(condition, what, within))


def block_until(condition: Callable[[], Any], what: Words = "", *, within: float = PATIENCE) -> Any:
    """Do the same as :func:`wait_until` in a test without an event loop."""
    for pause in _pauses(within):
        if value := condition():
            return value
        time.sleep(pause)
    raise AssertionError(_missed(condition, what, within))


def waited_for_cpu(pids: Iterable[int]) -> float:
    """Return the seconds for which threads of these processes have been runnable without running.

    Tests of a promised time subtract the increase, since the promise does not cover time that a busy machine gives to
    others. The source is ``/proc/PID/task/TID/schedstat`` (Linux, Documentation/scheduler/sched-stats.rst), second
    field, in nanoseconds; without it, nothing is subtracted.
    """
    waited = 0
    for stat in (path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")):
        with suppress(OSError):  # the thread has ended
            waited += int(stat.read_text().split()[1])
    return waited / 1e9


def _pauses(within: float) -> Iterator[float]:
    """Yield the pauses between checks: a twentieth of the time so far, so that a long wait costs little.

    The last check is later than the deadline.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < within:
        yield min(LONGEST_PAUSE_SECONDS, waited / 20)
    yield 0.0


def _missed(condition: Callable[[], Any], what: Words, within: float) -> str:
    words = what() if callable(what) else what
    return f"not within {within:g} s: {words or _source(condition)}"


def _source(condition: Callable[[], Any]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)

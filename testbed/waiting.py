"""Waiting in tests for a condition: with a deadline, and with words for what did not happen.

A test never sleeps for a fixed time and hopes; it calls :func:`wait_until`, or :func:`block_until` where no event loop
runs.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

PATIENCE: Final = 90.0
"""Seconds that tests wait for what must happen, where nothing is promised about how soon. They pass only where it never
happens, however busy the machine is. What is promised to happen within a time is tested with that time, written out."""

LONGEST_PAUSE_SECONDS: Final = 0.1

Words = str | Callable[[], str]
"""Text of a failure; a function where it tells how things were when the time was over."""


async def wait_until(condition: Callable[[], Any], what: Words = "", *, within: float = PATIENCE) -> Any:
    """Return the first true value of ``condition``, or what it awaits to (``lambda: asyncio.to_thread(ask)``).

    Args:
        what: what is waited for; by default, the source of the condition.
        within: seconds until that is given up.

    Raises:
        AssertionError: it has not become true in time.
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
    """Do what :func:`wait_until` does in a test without an event loop."""
    for pause in _pauses(within):
        if value := condition():
            return value
        time.sleep(pause)
    raise AssertionError(_missed(condition, what, within))


def _pauses(within: float) -> Iterator[float]:
    """Yield how long to pause before the next look: a twentieth of the time so far, so that a long wait costs little.

    The last look is later than the deadline.
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

"""Run blocking work in a daemon thread, so that it does not delay the end of the process.

The event loop's own threads would delay it while the system is slow to answer, and work in their queue might still run
later.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class NoThread(RuntimeError):
    """The system cannot start another thread; the work was not started."""


async def in_thread(work: Callable[[], T], name: str) -> T:
    """Return or raise the outcome of ``work``. If the caller is cancelled, the work continues in its thread.

    Raises:
        NoThread: the work was not started.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not done.done():
            set_outcome(outcome)

    def run() -> None:
        outcome: tuple[Callable[[Any], None], Any]
        try:
            outcome = (done.set_result, work())
        except Exception as error:
            outcome = (done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(deliver, *outcome)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThread(str(error)) from error
    return await done

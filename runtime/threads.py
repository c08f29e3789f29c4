"""Work that blocks, in a thread that nobody waits for when the process ends.

The event loop's own threads keep a process from ending while the system is slow to answer, and what was queued for them
may still run later.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class NoThread(RuntimeError):
    """The system has no room for another thread; the work was not begun."""


async def in_thread(work: Callable[[], T], name: str) -> T:
    """What ``work`` returns or raises. When the caller is cancelled, the work goes on alone.

    Raises:
        NoThread: it was not begun.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not done.done():
            set_outcome(outcome)

    def run() -> None:
        outcome: tuple[Callable[[Any], None], Any]
        try:
            outcome = (done.set_result, work())
        except Exception as error:
            outcome = (done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, *outcome)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThread(str(error)) from error
    return await done

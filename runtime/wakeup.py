"""What a loop waits for that acts on an event, but does not wait longer than it has something else to do.

Work that is done every so many seconds, whatever happens, is a periodic job instead (:mod:`runtime.jobs`).
"""

import asyncio


class Wakeup:
    """Wakes one loop. To be woken several times before it waits counts once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wakes the loop now, or when it waits next."""
        self._event.set()

    def clear(self) -> None:
        """Forgets that the loop was woken: it is about to look at everything anyway."""
        self._event.clear()

    async def wait(self, at_most_seconds: float | None = None) -> bool:
        """Returns True when the loop is woken, and False when the time is over."""
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

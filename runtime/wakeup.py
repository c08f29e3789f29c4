"""Wake a loop on an event or after a time-out, whichever comes first.

Work at a fixed interval is a periodic job instead (:mod:`runtime.jobs`).
"""

import asyncio


class Wakeup:
    """Wake-up signal for one loop. Several signals before it waits count once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the loop now, or when it waits next."""
        self._event.set()

    def clear(self) -> None:
        """Clear the signal, since the loop is about to check everything anyway."""
        self._event.clear()

    async def wait(self, at_most_seconds: float | None = None) -> bool:
        """Wait for the signal; return False after the time-out."""
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

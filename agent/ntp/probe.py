"""A series of samples of one server. How an exchange is made and how time passes are given from outside."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from agent.ntp.exchange import TIMEOUT, Source, exchange
from agent.ntp.sample import Sample
from agent.ntp.targets import Target

SPACING: Final = 2.0
"""Seconds between two requests to the same server, at least: faster ones are what servers limit."""

Ask = Callable[[], Awaitable[Sample]]


async def series(
    ask: Ask,
    samples: int,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Sample]:
    """Asks up to ``samples`` times, at least :data:`SPACING` apart; a kiss-o'-death ends the series."""
    taken: list[Sample] = []
    while True:
        began = clock()
        taken.append(await ask())
        if len(taken) >= samples or taken[-1].kissed:
            return taken
        # Measured from the request, and not before, however long the answer took.
        await sleep(max(0.0, began + SPACING - clock()))


async def probe(target: Target, source: Source, samples: int, timeout: float = TIMEOUT) -> list[Sample]:
    """A series of exchanges with ``target``, each waiting at most ``timeout`` seconds."""
    return await series(lambda: exchange(target, source, timeout), samples)

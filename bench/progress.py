"""Show a benchmark's progress to a person at a terminal, and nothing otherwise."""

import asyncio
import sys
import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY: Final = 0.2


def say(text: str) -> None:
    """Print a progress message on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"bench: {text}\n")


async def pass_time(what: str, seconds: float) -> None:
    """Wait this long, with a progress bar."""
    columns = (TextColumn("bench: {task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=seconds)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            bar.update(task, completed=passed)
            await asyncio.sleep(min(_EVERY, seconds - passed) if sys.stderr.isatty() else seconds - passed)

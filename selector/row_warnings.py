"""What is wrong with single rows: logged once for each, counted every time, and never in the way of the others."""

import logging
import threading
import time
from typing import Final

from opentelemetry.metrics import Counter

log = logging.getLogger(__name__)

_TEXTS: Final = 4
"""Of one row, that are remembered and so not said again; the oldest makes room when it is `_FORGOTTEN` old."""

_FORGOTTEN: Final = 600.0

_MOST: Final = 20_000
"""Rows that are remembered; after that all are forgotten, so that memory is bounded and the log nearly quiet."""


class RowWarnings:
    """Says what is wrong with a row when it is new, a few things of each row at most. Any thread may call it.

    What is wrong with a message, an agent chooses: however it alternates, it fills no log.
    """

    def __init__(self, counter: Counter | None = None) -> None:
        self._counter = counter
        self._said: dict[tuple[str, str | int], dict[str, float]] = {}
        self._lock = threading.Lock()

    def say(self, kind: str, key: str | int, what: str) -> None:
        """``kind`` and ``key`` name the row (``server``, 17), ``what`` is wrong with it and what would be right."""
        if self._counter is not None:
            self._counter.add(1, {"kind": kind})
        with self._lock:
            if len(self._said) >= _MOST:
                self._said.clear()
            if not _is_news(self._said.setdefault((kind, key), {}), what, time.monotonic()):
                return
        log.warning("%s %s: %s", kind, key, what)


def _is_news(said: dict[str, float], what: str, now: float) -> bool:
    """Whether to say this of a row, which is remembered then."""
    if what in said:
        return False
    if len(said) >= _TEXTS:
        oldest = min(said, key=said.__getitem__)
        if now - said[oldest] < _FORGOTTEN:
            return False
        del said[oldest]
    said[what] = now
    return True

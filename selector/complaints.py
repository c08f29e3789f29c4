"""What is wrong with single rows: logged once for each, counted every time, and never in the way of the others."""

import logging
import threading
from typing import Final

from opentelemetry.metrics import Counter

log = logging.getLogger(__name__)

_MOST: Final = 20_000
"""Rows that are remembered; after that all are forgotten, so that memory is bounded and the log nearly quiet."""


class Complaints:
    """Says what is wrong with a row when it is new or has changed. Any thread may call it."""

    def __init__(self, counter: Counter | None = None) -> None:
        self._counter = counter
        self._said: dict[tuple[str, str | int], str] = {}
        self._lock = threading.Lock()

    def say(self, kind: str, key: str | int, what: str) -> None:
        """``kind`` and ``key`` name the row (``server``, 17), ``what`` is wrong with it and what would be right."""
        if self._counter is not None:
            self._counter.add(1, {"kind": kind})
        with self._lock:
            if self._said.get((kind, key)) == what:
                return
            if len(self._said) >= _MOST:
                self._said.clear()
            self._said[kind, key] = what
        log.warning("%s %s: %s", kind, key, what)

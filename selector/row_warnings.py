"""Warnings about single rows: counted every time, logged once for each row, and never in the way of the others."""

import logging
from typing import Final

from opentelemetry.metrics import Counter

from runtime.log import OngoingWarning

log = logging.getLogger(__name__)

_WINDOW_SECONDS: Final = 600.0


class RowWarnings:
    """Warns of a row that cannot be used as it is, a few times at most. Any thread may call it.

    What is wrong with a message, an agent chooses: however it alternates, it fills no log.
    """

    def __init__(self, counter: Counter | None = None) -> None:
        self._counter = counter
        self._warning = OngoingWarning(log, repeat_seconds=None, window_seconds=_WINDOW_SECONDS)

    def say(self, kind: str, key: str | int, what: str) -> None:
        """``kind`` and ``key`` name the row (``server``, 17), ``what`` is wrong with it and what would be right."""
        if self._counter is not None:
            self._counter.add(1, {"kind": kind})
        self._warning.warning("%s %s: %s", kind, key, what, key=(kind, key))

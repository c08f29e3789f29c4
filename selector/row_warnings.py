"""Log warnings about single rows: count every one, but log each row only once, so that the log stays short."""

import logging
from typing import Final

from opentelemetry.metrics import Counter

from runtime.log import OngoingWarning

log = logging.getLogger(__name__)

_WINDOW_SECONDS: Final = 600.0


class RowWarnings:
    """Rate-limited warnings about rows that cannot be used. Thread-safe.

    The text of the error is not part of the key, since an agent determines it and could fill the log with variations.
    """

    def __init__(self, counter: Counter | None = None) -> None:
        self._counter = counter
        self._warning = OngoingWarning(log, repeat_seconds=None, window_seconds=_WINDOW_SECONDS)

    def warn(self, kind: str, key: str | int, what: str) -> None:
        """Warn about the row ``key`` of this ``kind`` (17, ``server``); ``what`` is the error and the valid values."""
        if self._counter is not None:
            self._counter.add(1, {"kind": kind})
        self._warning.warning("%s %s: %s", kind, key, what, key=(kind, key))

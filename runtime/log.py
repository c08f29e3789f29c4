"""Log to stderr, with priorities for the journal, with rate limits, and without secrets.

Logged names, topics and texts come from other parties, and may contain secrets or control characters.
"""

import logging
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Hashable
from typing import Any, Final

from runtime.printable import printable

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
LEVEL_NAMES: Final = tuple(_LEVELS)


def level_name(given: object) -> object:
    """Normalize the name of a level: accept ``warn`` and upper case. Return any other value unchanged."""
    if not isinstance(given, str):
        return given
    name = given.strip().lower()
    return "warning" if name == "warn" else name if name in _LEVELS else given


_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Priorities of syslog, which systemd reads as a prefix ``<N>`` of a line (sd-daemon(3))."""


_HIDDEN: Final = "[secret]"
_LOOKS_SECRET: Final = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JWT
    r"|\bhv[sbr]\.[\w-]{8,}"  # a token of Vault
    r"|\bntp[ma]_[0-9a-f]{16,}"  # an API key; its first characters may be shown
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_SHORTEST_SECRET: Final = 12
"""Minimum characters; a shorter secret may be a word, which would be hidden everywhere."""

_kept_out: Final[set[str]] = set()


def keep_out_of_logs(secret: str) -> None:
    """Hide each line of ``secret`` in all logs from now on, also within other texts."""
    lines = (line.strip() for line in secret.splitlines())
    _kept_out.update(line for line in lines if len(line) >= _SHORTEST_SECRET and not line.startswith("-----"))


def without_secrets(text: str) -> str:
    """Return ``text`` without known secrets, and without anything that looks like a token or a private key."""
    for secret in _kept_out:
        text = text.replace(secret, _HIDDEN)
    return _LOOKS_SECRET.sub(_HIDDEN, text)


def crash_text(error: BaseException) -> str:
    """Return the traceback of an error that ends the process, without secrets and control characters."""
    text = without_secrets("".join(traceback.format_exception(error)))
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


class _Formatter(logging.Formatter):
    """Formatter that keeps each message on one line, without secrets and control characters."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(without_secrets(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(printable, without_secrets(super().formatException(ei)).split("\n")))


class _JournalFormatter(_Formatter):
    """Formatter that prefixes each line with its priority; the journal adds time and unit itself."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def set_up_logging(level: str) -> None:
    """Send all log records of ``level`` (one of :data:`LEVEL_NAMES`) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if stderr_is_journal():
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        line = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
        handler.setFormatter(_Formatter(line, "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)


def set_level(level: str) -> None:
    """Set the log level from now on."""
    logging.getLogger().setLevel(_LEVELS[level])
    # The libraries' own details only help to debug the libraries.
    for library in ("mqtt", "alembic", "apscheduler", "urllib3"):
        logging.getLogger(library).setLevel(max(_LEVELS[level], logging.WARNING))


def stderr_is_journal() -> bool:
    """Return whether stderr is the journal, whose device and inode systemd sets in ``JOURNAL_STREAM``."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


class OngoingWarning:
    """Rate-limited warnings about lasting conditions, logged when one begins or changes, and repeated at intervals.

    A text about a key is logged again after ``repeat_seconds``, or if the condition was :meth:`over` in between. At
    most :data:`TEXTS` different texts about a key are logged in ``window_seconds``, even if causes alternate.
    Thread-safe.

    Args:
        repeat_seconds: None logs each text once.
    """

    REPEAT_SECONDS: Final = 60.0

    TEXTS: Final = 4
    """Maximum different texts per key in memory."""

    _KEYS: Final = 20_000
    """Maximum keys in memory; a further one is logged only if the oldest is older than the window."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        repeat_seconds: float | None = REPEAT_SECONDS,
        window_seconds: float = REPEAT_SECONDS,
    ) -> None:
        self._log = logger
        self._repeat = math.inf if repeat_seconds is None else repeat_seconds
        self._window = window_seconds
        self._logged: dict[Hashable, dict[str, float]] = {}
        """By key: the texts and the times of their last log. The key that was logged longest ago comes first."""
        self._lock = threading.Lock()

    def warning(self, text: str, *args: object, key: Hashable = None) -> None:
        """Log a warning about ``key`` unless it exceeds the rate limit."""
        message = text % args
        with self._lock:
            due = self._is_due(key, message, time.monotonic())
        if due:
            self._log.warning("%s", message)

    @property
    def lasting(self) -> bool:
        """Return whether a condition lasts."""
        return bool(self._logged)

    def over(self, key: Hashable = None) -> None:
        """End the condition, so that the next warning about ``key`` is new."""
        with self._lock:
            self._logged.pop(key, None)

    def _is_due(self, key: Hashable, message: str, now: float) -> bool:
        """Return whether to log this now, and record it if so."""
        texts = self._logged.get(key, {})
        logged_at = texts.get(message)
        if logged_at is None and not self._has_room(key, texts, now):
            return False
        if logged_at is not None and now - logged_at < self._repeat:
            return False
        texts[message] = now
        self._logged.pop(key, None)  # keeps the dict in the order of the times
        self._logged[key] = texts
        return True

    def _has_room(self, key: Hashable, texts: dict[str, float], now: float) -> bool:
        """Return whether another text of a key can be recorded; evict one older than the window if necessary."""
        if key not in self._logged and len(self._logged) >= self._KEYS:
            oldest_key = next(iter(self._logged))
            if now - max(self._logged[oldest_key].values()) < self._window:
                return False
            del self._logged[oldest_key]
        if len(texts) >= self.TEXTS:
            oldest = min(texts, key=texts.__getitem__)
            if now - texts[oldest] < self._window:
                return False
            del texts[oldest]
        return True


class RateLimitedLog:
    """Rate-limited log of events that others cause: one line per cause and minute, and a token bucket for all lines.

    The limit applies per cause, not per text, so that alternating texts do not increase the rate. A line gives the
    number of suppressed ones before it. Not thread-safe.
    """

    EACH: Final = 60.0
    """Minimum seconds between two lines about the same cause."""

    BURST: Final = 10
    """Maximum lines at once."""

    EVERY: Final = 1.0
    """Seconds per further line."""

    _KEYS: Final = 10_000
    """Maximum causes in memory; the one that was logged longest ago is evicted first."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._logged_at: dict[str, float] = {}
        self._suppressed = 0
        self._lines = float(self.BURST)
        self._at = time.monotonic()

    def log(self, level: int, key: str, text: str, *args: object, exc_info: bool | BaseException = False) -> None:
        """Log an event caused by ``key`` unless it exceeds the rate limits."""
        now = time.monotonic()
        self._lines = min(self.BURST, self._lines + (now - self._at) / self.EVERY)
        self._at = now
        if self._lines < 1 or now - self._logged_at.get(key, -self.EACH) < self.EACH:
            self._suppressed += 1
            return
        self._lines -= 1
        self._record(key, now)
        more = f" (and {self._suppressed} more since)" if self._suppressed else ""
        self._suppressed = 0
        self._log.log(level, f"{text}%s", *args, more, exc_info=exc_info)

    def _record(self, key: str, now: float) -> None:
        self._logged_at.pop(key, None)  # keeps the dict in the order of the times
        if len(self._logged_at) >= self._KEYS:
            del self._logged_at[next(iter(self._logged_at))]
        self._logged_at[key] = now

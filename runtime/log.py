"""Logging to stderr, in the journal's own terms when stderr is the journal, without repeating itself, and without
secrets: others choose names, topics and texts that are logged, and some hold what should be nowhere."""

import logging
import math
import os
import re
import sys
import threading
import time
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
    """The name of a level in our spelling: ``warn`` and capitals are what others use. Anything else stays as it is."""
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
"""Of syslog, which systemd reads as a prefix ``<N>`` of a line (sd-daemon(3))."""


_HIDDEN: Final = "[secret]"
_LOOKS_SECRET: Final = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JWT
    r"|\bhv[sbr]\.[\w-]{8,}"  # a token of Vault
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_SHORTEST_SECRET: Final = 12
"""Characters. Less may be a word, and would be hidden wherever somebody uses it."""

_kept_out: Final[set[str]] = set()


def keep_out_of_logs(secret: str) -> None:
    """Hides ``secret``, each line of it, wherever it is logged from now on, also as part of a text of somebody else."""
    lines = (line.strip() for line in secret.splitlines())
    _kept_out.update(line for line in lines if len(line) >= _SHORTEST_SECRET and not line.startswith("-----"))


def without_secrets(text: str) -> str:
    """``text`` without what was kept out of logs, and without what looks like a token or a private key."""
    for secret in _kept_out:
        text = text.replace(secret, _HIDDEN)
    return _LOOKS_SECRET.sub(_HIDDEN, text)


class _Formatter(logging.Formatter):
    """Messages quote strangers, so each is one line, without secrets and characters that a terminal would obey."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(without_secrets(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(printable, without_secrets(super().formatException(ei)).split("\n")))


class _JournalFormatter(_Formatter):
    """Each line with its priority; the journal adds time and unit itself."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def set_up_logging(level: str) -> None:
    """Sends all log records of ``level`` (one of :data:`LEVEL_NAMES`) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if stderr_is_journal():
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        line = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
        handler.setFormatter(_Formatter(line, "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)


def set_level(level: str) -> None:
    """Changes the level of everything that is logged from now on."""
    logging.getLogger().setLevel(_LEVELS[level])
    # The libraries' own chatter is for those who debug the libraries.
    for library in ("mqtt", "alembic", "apscheduler", "urllib3"):
        logging.getLogger(library).setLevel(max(_LEVELS[level], logging.WARNING))


def stderr_is_journal() -> bool:
    """Whether stderr goes to the journal: systemd names its device and inode in ``JOURNAL_STREAM``."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


class OngoingWarning:
    """Rate-limited warning about conditions that last: logs each when it begins, changes and, now and then, goes on.

    A text about a key is logged again after ``repeat_seconds``, or when the condition was :meth:`over` in between. At
    most :data:`TEXTS` different texts about a key are logged in ``window_seconds``, however their causes alternate.
    Any thread may call it.

    Args:
        repeat_seconds: None logs each text once.
    """

    REPEAT_SECONDS: Final = 60.0

    TEXTS: Final = 4
    """Different texts about one key that are remembered."""

    _KEYS: Final = 20_000
    """How many keys are remembered; another one waits until the oldest is older than the window."""

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
        """By key: the texts and when they were logged. The key that was logged longest ago is the first."""
        self._lock = threading.Lock()

    def warning(self, text: str, *args: object, key: Hashable = None) -> None:
        """Logs what is wrong with ``key``, unless that was logged just now or too much was."""
        message = text % args
        with self._lock:
            due = self._is_due(key, message, time.monotonic())
        if due:
            self._log.warning("%s", message)

    @property
    def lasting(self) -> bool:
        """Whether there was a warning that is not over."""
        return bool(self._logged)

    def over(self, key: Hashable = None) -> None:
        """Ends the condition: the next warning about ``key`` is new."""
        with self._lock:
            self._logged.pop(key, None)

    def _is_due(self, key: Hashable, message: str, now: float) -> bool:
        """Whether to log this now; it is remembered then."""
        texts = self._logged.get(key, {})
        logged_at = texts.get(message)
        if logged_at is None and not self._has_room(key, texts, now):
            return False
        if logged_at is not None and now - logged_at < self._repeat:
            return False
        texts[message] = now
        self._logged.pop(key, None)  # so that the order of the dict is that of the times
        self._logged[key] = texts
        return True

    def _has_room(self, key: Hashable, texts: dict[str, float], now: float) -> bool:
        """Whether another text of a key can be remembered, in place of one that is older than the window if need be."""
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
    """Rate-limited log of events that others cause: each of them is named once a minute at most, and all together fill
    no log.

    Whoever alternates between two reasons is as quiet as one who has a single one. A line says how many were left out
    before it. One thread may call it.
    """

    EACH: Final = 60.0
    """Seconds between two lines about the same one."""

    BURST: Final = 10
    """Lines that may come at once."""

    EVERY: Final = 1.0
    """Seconds until another line may come."""

    _KEYS: Final = 10_000
    """How many are remembered; the one that was named longest ago is forgotten first."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._named: dict[str, float] = {}
        self._left_out = 0
        self._lines = float(self.BURST)
        self._at = time.monotonic()

    def say(self, level: int, who: str, text: str, *args: object, exc_info: bool = False) -> None:
        """Logs what ``who`` caused, unless too much was logged of it, or of all, just now."""
        now = time.monotonic()
        self._lines = min(self.BURST, self._lines + (now - self._at) / self.EVERY)
        self._at = now
        if self._lines < 1 or now - self._named.get(who, -self.EACH) < self.EACH:
            self._left_out += 1
            return
        self._lines -= 1
        self._remember(who, now)
        more = f" (and {self._left_out} more since)" if self._left_out else ""
        self._left_out = 0
        self._log.log(level, f"{text}%s", *args, more, exc_info=exc_info)

    def _remember(self, who: str, now: float) -> None:
        self._named.pop(who, None)  # so that the order of the dict is that of the times
        if len(self._named) >= self._KEYS:
            del self._named[next(iter(self._named))]
        self._named[who] = now

"""Define the parameters, messages and results of a broker session."""

import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

from runtime.retry import Delays
from schema.topics import unshared

TokenSource = Callable[[], str | Awaitable[str]]
"""Function that returns a currently valid token. If it raises, the session retries later."""

SESSION_TAKEN_OVER: Final = 0x8E  # MQTT 5, 3.14.2.1


class TlsUnusable(OSError):
    """Certificates or key are invalid; the message names the files."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Address of the broker. Without ``ca_file`` the connection is plain TCP, which is for loopback only."""

    host: str
    port: int
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None for plain TCP.

        Raises:
            TlsUnusable: a file is unreadable, is not a certificate or key, or the two do not match.
        """
        if self.ca_file is None:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file))
        except OSError as error:
            raise TlsUnusable(f"{self.ca_file}: {_in_words(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is not None:
            try:
                # Without this, OpenSSL would prompt on the terminal for the password of an encrypted key.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except (OSError, ValueError) as error:
                raise TlsUnusable(f"{self.cert_file}, {self.key_file}: {_in_words(error)}") from error
        return context

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.ca_file else 'mqtt'}://{host}:{self.port}"


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        # Without the position in OpenSSL's source, which differs between versions.
        return f"no certificate or key, or not of the same pair ({error.reason or 'unreadable'})"
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a session: ``name`` is the token's subject; ``client_id`` equals it or begins with it and a slash."""

    name: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A received message."""

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Incoming], None]
"""Function that handles a message in the event loop without blocking; it enqueues longer work or starts a task."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter, possibly shared, and the handler of its messages."""

    topic_filter: str
    handler: Handler
    qos: int = 1

    def matches(self, topic: str) -> bool:
        """Return whether ``topic`` matches the filter."""
        return _pattern(self.topic_filter).fullmatch(topic) is not None


@lru_cache(maxsize=256)
def _pattern(topic_filter: str) -> re.Pattern[str]:
    """Compile a filter into a pattern (MQTT 5, 4.7), once, since every message is compared with several filters."""
    levels = unshared(topic_filter).split("/")
    # A leading wildcard does not match the broker's own topics.
    pattern = "(?!\\$)" if levels[0] in ("#", "+") else ""
    everything = levels[-1] == "#"
    pattern += "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels[: len(levels) - everything])
    if everything:
        pattern += "(?:/.*)?" if len(levels) > 1 else ".*"
    return re.compile(pattern, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Will:
    """Last will, which the broker publishes if the connection is lost."""

    topic: str
    payload: bytes
    delay: timedelta
    expiry: timedelta
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that a broker announced for a connection (MQTT 5, 3.2.2.3), as far as they matter."""

    packet: int | None = None
    """Maximum bytes of a packet."""
    qos: int = 2
    retain: bool = True
    """True if the broker supports retained messages."""


RETAIN_NOT_SUPPORTED: Final = 0x9A  # MQTT 5, 2.4
QOS_NOT_SUPPORTED: Final = 0x9B


def bearable(will: Will | None, refused: int | None) -> Will | None:
    """Return the last will reduced to a form that the broker accepts, after it refused with reason code ``refused``."""
    if will is None:
        return None
    if refused == RETAIN_NOT_SUPPORTED:
        return replace(will, retain=False)
    return replace(will, qos=0) if refused == QOS_NOT_SUPPORTED else will


@dataclass(frozen=True, slots=True)
class Lost:
    """Reason for the end or failure of a connection, and its duration in seconds (0 if never established)."""

    reason: str
    code: int | None
    lasted: float

    @property
    def taken_over(self) -> bool:
        """Return whether another client connected with the same client id."""
        return self.code == SESSION_TAKEN_OVER


BackOff = Callable[[Lost, int], float]
"""Function that returns the seconds before the next attempt, after so many consecutive short-lived ones."""


_QUICK: Final = Delays(first_seconds=0.1, longest_seconds=10.0, jitter=0.5)


def quick_back_off(lost: Lost, failures: int) -> float:
    """Return the workers' back-off: almost none at first, then doubling to 10 s, with jitter."""
    return _QUICK.after(failures + 1)

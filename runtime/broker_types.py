"""The values that a broker session is made from, takes and gives."""

import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

from schema.topics import unshared

TokenSource = Callable[[], str | Awaitable[str]]
"""Yields a token that is valid now. May raise; the session then tries again later."""

SESSION_TAKEN_OVER: Final = 0x8E  # MQTT 5, 3.14.2.1


class TlsUnusable(OSError):
    """Certificates or key cannot be used; the message names the files."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker listens. Without ``ca_file`` the connection is plain, which is for loopback only."""

    host: str
    port: int
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context, or None for plain TCP.

        Raises:
            TlsUnusable: a file cannot be read, is no certificate or key, or the two do not belong together.
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
                # Without a password a key that is encrypted would be asked for on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except (OSError, ValueError) as error:
                raise TlsUnusable(f"{self.cert_file}, {self.key_file}: {_in_words(error)}") from error
        return context

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.ca_file else 'mqtt'}://{host}:{self.port}"


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        # Without OpenSSL's own place in its source, which changes from version to version.
        return f"no certificate or key, or not of the same pair ({error.reason or 'unreadable'})"
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are: ``name`` is the token's subject, ``client_id`` equals it or begins with it and a slash."""

    name: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it arrived."""

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Incoming], None]
"""Takes a message in the event loop, and returns at once: what takes time is queued or made a task."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter, possibly shared, and who takes its messages."""

    topic_filter: str
    handler: Handler
    qos: int = 1

    def takes(self, topic: str) -> bool:
        """Whether a message on ``topic`` is for this subscription."""
        return _pattern(self.topic_filter).fullmatch(topic) is not None


@lru_cache(maxsize=256)
def _pattern(topic_filter: str) -> re.Pattern[str]:
    """The topics that a filter matches (MQTT 5, 4.7). Made once: every message is compared with some filters."""
    levels = unshared(topic_filter).split("/")
    # A wildcard at the beginning does not match what the broker says of itself.
    pattern = "(?!\\$)" if levels[0] in ("#", "+") else ""
    everything = levels[-1] == "#"
    pattern += "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels[: len(levels) - everything])
    if everything:
        pattern += "(?:/.*)?" if len(levels) > 1 else ".*"
    return re.compile(pattern, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we vanish."""

    topic: str
    payload: bytes
    delay: timedelta
    expiry: timedelta
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What a broker allows on a connection, as it announced (MQTT 5, 3.2.2.3). Its other limits need no care."""

    packet: int | None = None
    """Bytes of a packet, at most."""
    qos: int = 2
    retain: bool = True
    """Whether it retains messages."""


RETAIN_NOT_SUPPORTED: Final = 0x9A  # MQTT 5, 2.4
QOS_NOT_SUPPORTED: Final = 0x9B


def bearable(will: Will | None, refused: int | None) -> Will | None:
    """The last will in a form that a broker takes which has refused to connect for the reason code ``refused``."""
    if will is None:
        return None
    if refused == RETAIN_NOT_SUPPORTED:
        return replace(will, retain=False)
    return replace(will, qos=0) if refused == QOS_NOT_SUPPORTED else will


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a connection ended or was not made, and for how long it had lasted (seconds, 0 when never made)."""

    reason: str
    code: int | None
    lasted: float

    @property
    def taken_over(self) -> bool:
        """Another client came with our client id."""
        return self.code == SESSION_TAKEN_OVER


BackOff = Callable[[Lost, int], float]
"""Seconds to wait before the next attempt, after ``n`` attempts in a row that did not last."""


def quick_back_off(lost: Lost, failures: int) -> float:
    """For workers: at once at first, then doubling to 10 s, with jitter."""
    doublings = min(failures, 7)  # which are enough; a thousand, after two hours, are more than a float holds
    return min(10.0, 0.1 * 2.0**doublings) * random.uniform(0.5, 1.0)

"""What the command line hands to the daemon. A Struct, so that the daemon needs no pydantic to read it."""

import os
from typing import Final

import msgspec

from schema.messages import LogLevel
from schema.names import Environment, IpVersion

_MAX_SETTINGS: Final = 65536


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Validated settings of a daemon. Nothing in it is secret."""

    env: Environment
    state_base: str
    """The directory in which the state directory of ``env`` is."""
    log_level: LogLevel = "info"
    protocols: tuple[IpVersion, ...] = ("v4", "v6")
    """Those that may be used on this host."""
    spool_bytes: int = 64 * 1024 * 1024
    """Bytes of results kept on disk at most, both protocols together."""
    once: bool = False
    """Probe every assigned server once, deliver the results and end."""
    sanity_only: bool = False
    """Only check the local clock, and end."""


def hand_over(settings: DaemonSettings) -> int:
    """A file descriptor that the next program of this process can read the settings from."""
    reading, writing = os.pipe()
    os.write(writing, msgspec.json.encode(settings))  # far less than a pipe holds
    os.close(writing)
    os.set_inheritable(reading, True)
    return reading


def take_over(descriptor: int) -> DaemonSettings:
    """The settings that :func:`hand_over` left.

    Raises:
        OSError: there is no such descriptor.
        msgspec.MsgspecError: something else was left there.
    """
    try:
        return msgspec.json.decode(os.read(descriptor, _MAX_SETTINGS), type=DaemonSettings)
    finally:
        os.close(descriptor)

"""Pass settings from the command line to the daemon. They are a ``Struct``, so that the daemon needs no pydantic."""

import os
from typing import Final

import msgspec

from schema.messages import LogLevel
from schema.names import Environment, IpVersion

_MAX_SETTINGS: Final = 65536


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Validated settings of a daemon. They contain no secrets."""

    env: Environment
    state_base: str
    """The parent of the state directory of ``env``."""
    log_level: LogLevel = "info"
    protocols: tuple[IpVersion, ...] = ("v4", "v6")
    """The protocols that are enabled on this host."""
    spool_bytes: int = 64 * 1024 * 1024
    """Maximum bytes of results on disk, for both protocols together."""
    trace_batches: int = 1000
    """One in so many batches is traced; 0: none."""
    once: bool = False
    """Probe every assigned server once, deliver the results and exit."""
    sanity_only: bool = False
    """Only check the local clock, and exit."""
    api_local: dict[IpVersion, str] = {}
    """Local addresses from which to contact the API."""
    defaults_file: str | None = None
    """The file that was read for these settings."""
    defaults_stamp: tuple[int, ...] | None = None
    """Its stamp (:func:`runtime.mqtt.tls_files.file_stamp`); ``None`` if there is none."""


def hand_over(settings: DaemonSettings) -> int:
    """Return a file descriptor from which the next program of this process can read the settings."""
    reading, writing = os.pipe()
    os.write(writing, msgspec.json.encode(settings))  # much smaller than the buffer of a pipe
    os.close(writing)
    os.set_inheritable(reading, True)
    return reading


def take_over(descriptor: int) -> DaemonSettings:
    """Read the settings that :func:`hand_over` wrote.

    Raises:
        OSError: there is no such descriptor.
        msgspec.MsgspecError: the content is not valid settings.
    """
    try:
        return msgspec.json.decode(os.read(descriptor, _MAX_SETTINGS), type=DaemonSettings)
    finally:
        os.close(descriptor)

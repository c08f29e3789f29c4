"""Read what a log row says beside its numbers, and make error texts public.

Error texts come from agents and from servers. Those of some agents quote the socket of a probe, and so the address of
the monitor, which is never published: every address in a text is replaced, except the server's own. Pure.
"""

import json
import re
from typing import Final, NamedTuple

MAX_ERROR: Final = 300
"""Characters of an error text that are published."""

REMOVED: Final = "<address>"

_RUN: Final = re.compile(r"[0-9A-Fa-f:.]{3,}")
"""Characters of which addresses consist, with a port or the end of a sentence behind them."""

_ADDRESS: Final = re.compile(r"\d\.\d+\.\d+\.\d|:[^:]*:")
"""What a run has that may be an address. A time of day is taken for one, too, which does no harm."""

_PORT: Final = re.compile(r":\d{1,5}$")


class Attributes(NamedTuple):
    """The published attributes of a log row."""

    leap: int
    """Leap indicator; 0: none."""
    error: str
    """Empty: none."""


_NONE: Final = Attributes(0, "")


def read_attributes(text: str | None, server_ip: str) -> Attributes:
    """Return what is published of the attributes in a log row; nothing of those that are invalid."""
    if not text:
        return _NONE
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _NONE
    if not isinstance(found, dict):
        return _NONE
    leap, error = found.get("leap"), found.get("error")
    is_leap = isinstance(leap, int) and 0 < leap <= 3 and leap is not True
    return Attributes(
        leap if is_leap and isinstance(leap, int) else 0,
        public_text(error, server_ip) if isinstance(error, str) else "",
    )


def public_text(text: str, server_ip: str = "") -> str:
    """Return a text without addresses other than the server's, and not longer than :data:`MAX_ERROR`."""
    cut = text[: 8 * MAX_ERROR]
    return _RUN.sub(lambda found: _shown(found[0], server_ip), cut)[:MAX_ERROR]


def _shown(run: str, server_ip: str) -> str:
    """Return what is published in place of a run: itself, unless it may have the address of a monitor."""
    if not _ADDRESS.search(run):
        return run
    core = run.rstrip(".:")
    if server_ip and server_ip.lower() in (core.lower(), _PORT.sub("", core).lower()):
        return run
    return REMOVED + run[len(core) :]

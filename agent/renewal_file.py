"""Tell the daemon and the ``status`` command how the last renewal ended, through a file in the state directory."""

from datetime import datetime
from typing import Literal

import msgspec

from agent.files import write_atomically
from agent.state import StateDirectory

Kind = Literal["ok", "waiting", "refused", "unreachable", "failed"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``renewal.json``."""

    at: datetime
    kind: Kind
    """``waiting``: the pool has yet to do something. ``refused``: the key is not valid, or the monitor deleted.
    ``unreachable``: there was no answer. ``failed``: anything else that may pass."""
    text: str = ""
    """The reason; empty if all is well."""
    clock: str = ""
    """A warning about this host's clock."""
    due_in: float | None = None
    """Seconds from then until a token or certificate is due for renewal; ``None``: unknown."""
    life: float | None = None
    """Seconds for which the shorter-lived of token and certificate is valid in all; ``None``: unknown."""
    address: str = ""
    """A warning that this host has another address than the registered one."""


def write_outcome(directory: StateDirectory, outcome: Outcome) -> None:
    """Replace the outcome.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(directory.renewal_file, msgspec.json.encode(outcome))


def read_outcome(directory: StateDirectory) -> Outcome | None:
    """Return the last outcome; ``None`` if there is none, or none that can be read."""
    try:
        return msgspec.json.decode(directory.renewal_file.read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None

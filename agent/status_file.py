"""Pass the daemon's report to the ``status`` command, through a file in the state directory."""

from datetime import datetime

import msgspec

from agent.files import write_atomically
from agent.state import StateDirectory, StateError
from schema.messages import Result, Status
from schema.names import Environment


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``status.json``."""

    name: str
    env: Environment
    pid: int
    written: datetime
    started: datetime
    broker: str
    connected: bool
    disconnected_because: str | None = None
    waiting_for: str | None = None
    """What a daemon waits for that cannot log in yet, because this monitor has not been set up."""
    status: Status
    """As published to the pool."""
    troubles: list[str] = []
    """The current warnings of the agent."""
    set_aside_torn: int = 0
    """Batches of the spool that were unreadable."""
    probes_unsent: int = 0
    """Probes that this host could not send."""
    results_unproven: int = 0
    """Results of silent servers that were discarded because no other server answered."""
    last_results: list[Result] = []
    """The most recent results, newest first."""
    settings_file: str | None = None
    """The defaults file, which the daemon has read at its start only."""
    settings_stamp: tuple[int, ...] | None = None
    """Its stamp at that time; ``None`` if there was no such file."""


def write_report(directory: StateDirectory, report: AgentReport) -> None:
    """Replace the report.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(directory.status_file, msgspec.json.encode(report))


def read_report(directory: StateDirectory) -> AgentReport | None:
    """Return the last report; ``None`` if there has never been one.

    Raises:
        StateError: it cannot be read.
    """
    try:
        return msgspec.json.decode(directory.status_file.read_bytes(), type=AgentReport)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StateError(f"{directory.status_file}: {error}") from error

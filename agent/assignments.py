"""Hold the servers that this monitor probes over one protocol, as published in retained messages."""

from typing import Final

from agent.ntp.targets import TargetRefused, TargetRules
from schema.messages import Assignment, assignment_set_hash
from schema.names import IpVersion

MAX_ASSIGNMENTS: Final = 20_000
"""Maximum number of assignments, several times the pool's servers: a flood must not exhaust the memory."""

MIN_INTERVAL: Final = 1.0
MAX_INTERVAL: Final = 30 * 86400.0
"""Seconds. An interval outside these bounds is a mistake: the agent would flood the server or never probe it."""


class AssignmentRefused(ValueError):
    """The assignment is invalid; the message gives the reason."""


class Assignments:
    """A set of assignments, and the hash by which agent and selector detect differences."""

    def __init__(self, ipv: IpVersion, rules: TargetRules) -> None:
        self._ipv = ipv
        self._rules = rules
        self._held: dict[int, Assignment] = {}
        self._hash: str | None = None

    def __len__(self) -> int:
        return len(self._held)

    def get(self, server_id: int) -> Assignment | None:
        """Return the assignment of a server, or ``None``."""
        return self._held.get(server_id)

    def ids(self) -> list[int]:
        """Return the ids of all assigned servers."""
        return list(self._held)

    def put(self, server_id: int, assignment: Assignment) -> None:
        """Store an assignment that was published for ``server_id``.

        Raises:
            AssignmentRefused: it names another server, cannot be probed, or exceeds the maximum number.
        """
        if assignment.server_id != server_id:
            raise AssignmentRefused(f"names server {assignment.server_id}")
        if not MIN_INTERVAL <= assignment.interval <= MAX_INTERVAL:
            raise AssignmentRefused(f"interval {assignment.interval:g} s: must be {MIN_INTERVAL:g} to {MAX_INTERVAL:g}")
        try:
            self._rules.check(assignment.ip, assignment.port, self._ipv)
        except TargetRefused as error:
            raise AssignmentRefused(str(error)) from error
        if server_id not in self._held and len(self._held) >= MAX_ASSIGNMENTS:
            raise AssignmentRefused(f"exceeds the maximum of {MAX_ASSIGNMENTS} assignments")
        self._held[server_id] = assignment
        self._hash = None

    def remove(self, server_id: int) -> bool:
        """Remove the assignment of a server; return whether there was one."""
        self._hash = None
        return self._held.pop(server_id, None) is not None

    def clear(self) -> None:
        """Remove all assignments, as a new session starts without any."""
        self._held.clear()
        self._hash = None

    @property
    def hash(self) -> str:
        """Return the hash of all assignments, as computed by :func:`assignment_set_hash`."""
        if self._hash is None:
            self._hash = assignment_set_hash(self._held.values())
        return self._hash

"""The servers that this monitor is to probe over one protocol, as the retained messages have them."""

from typing import Final

from agent.ntp.targets import TargetRefused, TargetRules
from schema.messages import Assignment, assignment_set_hash
from schema.names import IpVersion

MAX_ASSIGNMENTS: Final = 20_000
"""Assignments held at most, several times what the pool has servers: a flood of them must not fill the memory."""

MIN_INTERVAL: Final = 1.0
MAX_INTERVAL: Final = 30 * 86400.0
"""Seconds. What lies outside is a mistake, and would make us a nuisance or never probe."""


class AssignmentRefused(ValueError):
    """The assignment cannot be followed; the message says why."""


class Assignments:
    """A set of assignments, and the hash by which agent and selector see whether they agree."""

    def __init__(self, ipv: IpVersion, rules: TargetRules) -> None:
        self._ipv = ipv
        self._rules = rules
        self._held: dict[int, Assignment] = {}
        self._hash: str | None = None

    def __len__(self) -> int:
        return len(self._held)

    def get(self, server_id: int) -> Assignment | None:
        """The assignment of a server, if it is one of ours."""
        return self._held.get(server_id)

    def ids(self) -> list[int]:
        """All servers assigned."""
        return list(self._held)

    def put(self, server_id: int, assignment: Assignment) -> None:
        """Takes an assignment that was published for ``server_id``.

        Raises:
            AssignmentRefused: it is about another server, cannot be probed, or is one too many.
        """
        if assignment.server_id != server_id:
            raise AssignmentRefused(f"is about server {assignment.server_id}")
        if not MIN_INTERVAL <= assignment.interval <= MAX_INTERVAL:
            raise AssignmentRefused(f"interval {assignment.interval:g} s: must be {MIN_INTERVAL:g} to {MAX_INTERVAL:g}")
        try:
            self._rules.check(assignment.ip, assignment.port, self._ipv)
        except TargetRefused as error:
            raise AssignmentRefused(str(error)) from error
        if server_id not in self._held and len(self._held) >= MAX_ASSIGNMENTS:
            raise AssignmentRefused(f"one more than the {MAX_ASSIGNMENTS} that an agent holds")
        self._held[server_id] = assignment
        self._hash = None

    def remove(self, server_id: int) -> bool:
        """Whether the server was assigned; it is no longer."""
        self._hash = None
        return self._held.pop(server_id, None) is not None

    def clear(self) -> None:
        """Forgets all of them: a new session begins with none."""
        self._held.clear()
        self._hash = None

    @property
    def hash(self) -> str:
        """Of all assignments held, as :func:`assignment_set_hash` has it."""
        if self._hash is None:
            self._hash = assignment_set_hash(self._held.values())
        return self._hash

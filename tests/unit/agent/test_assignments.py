"""Test which assignments an agent accepts, and the hash that both sides compare."""

from typing import Any

import pytest

from agent.assignments import AssignmentRefused, Assignments
from agent.ntp.targets import TargetRules
from schema.messages import Assignment, assignment_set_hash

RULES = TargetRules("devel", allow_private=True)


def assignment(server_id: int = 1, **fields: Any) -> Assignment:
    return Assignment(**{"server_id": server_id, "ip": "127.0.0.1", "status": "active", "interval": 540.0, **fields})


def held(*ids: int) -> Assignments:
    made = Assignments("v4", RULES)
    for server_id in ids:
        made.put(server_id, assignment(server_id))
    return made


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"server_id": 2}, "names server 2"),
        ({"interval": 0.001}, "must be 1 to"),
        ({"interval": 1e300}, "must be 1 to"),
        ({"ip": "::1"}, "not an IPv4 address"),
        ({"ip": "0.0.0.0"}, "not the address of one host"),
    ],
)
def test_unusable_assignments_are_refused(fields: dict[str, Any], why: str) -> None:
    made = Assignments("v4", RULES)
    with pytest.raises(AssignmentRefused, match=why):
        made.put(1, assignment(**fields))
    assert len(made) == 0


def test_other_ports_are_refused_outside_devel() -> None:
    with pytest.raises(AssignmentRefused, match="devel only"):
        Assignments("v4", TargetRules("prod")).put(1, assignment(ip="8.8.8.8", port=124))


def test_hash_matches_the_current_set() -> None:
    made = held(1, 2, 3)
    assert made.hash == assignment_set_hash([assignment(3), assignment(1), assignment(2)])
    made.put(2, assignment(2, interval=5.0))
    assert made.hash == assignment_set_hash([assignment(1), assignment(2, interval=5.0), assignment(3)])
    made.remove(1)
    assert made.hash == assignment_set_hash([assignment(2, interval=5.0), assignment(3)])
    made.clear()
    assert made.hash == assignment_set_hash([])


def test_assignments_beyond_the_maximum_are_refused() -> None:
    """The maximum is several times the number of servers in the pool."""
    made = held(*range(1, 20_001))
    with pytest.raises(AssignmentRefused, match="exceeds the maximum of 20000"):
        made.put(20_001, assignment(20_001))
    made.put(3, assignment(3, interval=9.0))
    assert len(made) == 20_000
    changed = made.get(3)
    assert changed is not None and changed.interval == 9.0

"""Test servers that once settled in a worse state than necessary, by reviewing each until nothing changes.

The worlds are in ``selection_cases.json``: a server and its monitors with their global status, the status of their
pairs, and the results of 24 h (count, mean step, mean rtt in ms).
"""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from selector.rows import RawMonitor, parse_monitor, parse_server
from selector.rules.model import PairStatus
from testbed.selection import oracle, proof
from testbed.selection.worlds import NOW, Scene

CASES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("selection_cases.json").read_text())


def scene_of(case: dict[str, Any]) -> Scene:
    server = parse_server(1, case["server"]["ip"], "v4", case["server"].get("account"))
    return Scene(server, tuple(parse_monitor(_row(one)) for one in case["monitors"]))


def _row(one: dict[str, Any]) -> RawMonitor:
    checked = one.get("checked_h")
    return RawMonitor(
        id=one["id"],
        name=f"m{one['id']}",
        ip=one["ip"],
        ip_version="v4",
        account_id=one.get("account"),
        account_flags=one.get("flags"),
        global_status=one["global"],
        pair_status=one["status"],
        count=one["count"],
        avg_step=one["step"],
        avg_rtt_ms=one["rtt"],
        violation_type=one.get("violation"),
        last_constraint_check=None if checked is None else NOW - timedelta(hours=checked),
        pause_reason=one.get("reason"),
    )


def lived(scene: Scene, reviews: int) -> Scene:
    """Return the scene after that many reviews, and check that each review keeps every promise."""
    for _ in range(reviews):
        proof.hold_all(scene)
        scene = scene.after(scene.review())
    return scene


def active(scene: Scene) -> set[int]:
    return {one.id for one in scene.judged if one.pair_status is PairStatus.ACTIVE}


def priorities(scene: Scene) -> float:
    return sum(oracle.priority(one) for one in scene.judged if one.id in active(scene))


ENDS: dict[str, Callable[[Scene], bool]] = {
    "a better neighbour of the only active monitor waits": lambda end: active(end) == {2},
    "two neighbours, and nobody is active": lambda end: active(end) == {2},
    "the only active monitor is globally pending": lambda end: active(end) == {2},
    "those who hold the reserved places never get ready": lambda end: len(active(end)) == 7,
    "globally testing monitors fill testing": lambda end: active(end) >= {13, 14, 15, 16, 17, 18},
    "an account's limit is 0": lambda end: active(end) == {1, 2, 3, 5, 6},
    "an account's limit is negative": lambda end: active(end) == {2, 3, 4, 5, 6, 7, 8},
    "the worse of two neighbours is testing": lambda end: active(end) == {31802},
    "an unhealthy active monitor and a better one of its account and network": lambda end: (
        28315 in active(end) and 28314 not in active(end)
    ),
    "the better of two neighbours is testing beside the active one": lambda end: (
        39823 in active(end) and 39815 not in active(end)
    ),
    "a crowd of neighbours and siblings": lambda end: priorities(end) <= 87,
}


def test_every_case_has_an_expected_end() -> None:
    assert CASES.keys() == ENDS.keys()


@pytest.mark.parametrize("name", CASES)
def test_server_settles_in_the_expected_state(name: str) -> None:
    scene = scene_of(CASES[name])
    end = lived(scene, 30)
    assert ENDS[name](end), [f"{one.id} {one.pair_status}" for one in end.judged]
    proof.selection_settles(scene)
    proof.selection_does_not_starve(scene)


@pytest.mark.parametrize("name", CASES)
def test_server_settles_as_expected_without_recorded_moves(name: str) -> None:
    """For pairs that an older selector moved, it is unknown when they entered testing."""
    scene, seen = scene_of(CASES[name]), []
    for _ in range(30):
        decided = scene.review()
        scene = scene.after(decided)
        scene = Scene(scene.server, tuple(replace(one, last_move=None) for one in scene.judged), now=scene.now)
        seen.append(frozenset((one.id, one.pair_status) for one in scene.judged))
    assert ENDS[name](scene), [f"{one.id} {one.pair_status}" for one in scene.judged]
    assert seen[-1] == seen[-5], "still changing"

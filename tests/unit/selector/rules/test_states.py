"""Test the wanted state of a monitor, and the choice between two that exclude each other."""

import pytest

from selector.rules.assess import determine_state
from selector.rules.model import GlobalStatus, Health, Monitor, PairStatus, State, ViolationType
from testbed.selection.worlds import SERVER, many, monitor, scene

LIMIT, SUBNET = ViolationType.LIMIT, ViolationType.NETWORK_SAME_SUBNET


@pytest.mark.parametrize(
    ("globally", "pair", "health", "violation", "emergency", "state"),
    [
        ("active", "active", "healthy", None, False, "in"),
        ("active", "testing", "healthy", None, False, "in"),
        ("active", "candidate", "healthy", None, False, "in"),
        ("active", "active", "unknown", None, False, "in"),
        ("active", "active", "unhealthy", None, False, "out"),
        ("active", "candidate", "unhealthy", None, False, "out"),
        ("active", "active", "healthy", LIMIT, False, "out"),
        ("active", "testing", "healthy", LIMIT, True, "in"),
        ("active", "testing", "unhealthy", LIMIT, True, "out"),
        ("active", "testing", "healthy", SUBNET, True, "out"),
        ("testing", "testing", "healthy", None, False, "pending"),
        ("testing", "testing", "unknown", None, False, "pending"),
        ("testing", "testing", "unhealthy", None, False, "out"),
        ("testing", "testing", "healthy", LIMIT, False, "out"),
        ("testing", "candidate", "healthy", None, False, "in"),
        ("testing", "active", "healthy", None, False, "in"),
        ("pending", "active", "healthy", None, False, "out"),
        ("pending", "candidate", "healthy", None, True, "out"),
        ("paused", "active", "healthy", None, False, "block"),
        ("paused", "active", "unhealthy", LIMIT, False, "block"),
        ("deleted", "candidate", "healthy", None, True, "block"),
    ],
)
def test_state_follows_from_status_health_and_violation(
    globally: str, pair: str, health: str, violation: ViolationType | None, emergency: bool, state: str
) -> None:
    given = GlobalStatus(globally), PairStatus(pair), Health(health)
    assert determine_state(*given, violation, emergency) is State(state)


def flagged(*monitors: Monitor) -> dict[int, str]:
    return {monitor_id: found.type.value for monitor_id, found in scene(*monitors).review().violations.items()}


ELSEWHERE = many(range(20, 23), "active")


def neighbour(number: int, status: str, **values: object) -> Monitor:
    return monitor(number, status, ip=f"10.1.16.{number}", **values)


def test_worse_of_two_monitors_in_one_network_is_flagged() -> None:
    worse, better = neighbour(1, "active", avg_rtt_ms=60.0), neighbour(2, "active", avg_rtt_ms=50.0)
    assert flagged(worse, better, *ELSEWHERE) == {1: "network_diversity"}


def test_active_monitor_is_kept_before_a_better_testing_one() -> None:
    assert flagged(neighbour(1, "active", avg_rtt_ms=60.0), neighbour(2, "testing"), *ELSEWHERE) == {
        2: "network_diversity"
    }


@pytest.mark.parametrize("values", [{"avg_step": -1.0}, {"global_status": "pending"}])
def test_leaving_monitor_never_causes_another_to_be_flagged(values: dict[str, object]) -> None:
    assert flagged(neighbour(1, "active", **values), neighbour(2, "testing"), *ELSEWHERE) == {1: "network_diversity"}


def test_a_candidate_holds_no_place_and_violates_nothing() -> None:
    assert flagged(neighbour(1, "active"), neighbour(2, "candidate"), *ELSEWHERE) == {}


def test_monitor_leaving_at_once_causes_no_other_to_be_flagged() -> None:
    assert flagged(neighbour(1, "active", global_status="paused"), neighbour(2, "testing"), *ELSEWHERE) == {}
    close = monitor(3, "active", ip="192.0.2.9", account_id=7, limit=1)
    sibling = monitor(4, "active", account_id=7, limit=1)
    assert flagged(close, sibling, *ELSEWHERE) == {3: "network_same_subnet"}


def test_candidates_too_close_to_the_server_are_flagged() -> None:
    there = SERVER.address.text.rsplit(".", 1)[0] + ".77"
    assert flagged(monitor(1, "candidate", ip=there), *ELSEWHERE) == {1: "network_same_subnet"}

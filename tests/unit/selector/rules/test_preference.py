"""Test the preference for healthy monitors: labels decide between equals, are explained, and decide nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.health import HealthLabel
from selector.rules.explain import as_dict, as_text, verdicts
from testbed.selection import promises, proof
from testbed.selection.strategies import examples, scenes
from testbed.selection.worlds import Scene, many, monitor, preferring, scene

STABLE, TROUBLED = (HealthLabel.STABLE_30D,), (HealthLabel.LOSES_PACKETS, HealthLabel.CLOCK_GOOD)
SIX = many(range(11, 17), "active")
FIVE = many(range(21, 26), "testing", global_status="testing")


def promoted(of: Scene) -> dict[int, str]:
    """Return the monitors that were promoted, and the reasons."""
    moved = {verdict.monitor_id: verdict for verdict in verdicts(of.review()) if verdict.rule is not None}
    return {number: one.reason for number, one in moved.items() if one.after in ("active", "testing")}


def two(better: float, worse: float, status: str = "testing", **labels: tuple[HealthLabel, ...]) -> list[object]:
    """Make monitor 1 with the better rtt, and monitor 2 with the worse."""
    first = monitor(1, status, avg_rtt_ms=better, labels=labels.get("first", ()))
    return [first, monitor(2, status, avg_rtt_ms=worse, labels=labels.get("second", ()))]


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ((), (), 1),
        ((), STABLE, 2),
        (STABLE, STABLE, 1),
        (TROUBLED, (), 2),
        (TROUBLED, STABLE, 2),
        (TROUBLED, TROUBLED, 1),
        ((), TROUBLED, 1),
        # A trouble weighs more than a merit, and merits of a day or of the clock decide nothing.
        ((), (*STABLE, *TROUBLED), 1),
        ((), (HealthLabel.STABLE_1D, HealthLabel.CLOCK_GOOD), 1),
    ],
)
def test_healthier_of_two_equals_gets_the_place(
    first: tuple[HealthLabel, ...], second: tuple[HealthLabel, ...], winner: int
) -> None:
    monitors = two(50.0, 54.0, first=first, second=second)
    found = promoted(scene(*monitors, *SIX, prefer_healthy=True))  # type: ignore[arg-type]
    assert found.keys() == {winner}
    assert promoted(scene(*monitors, *SIX)).keys() == {1}, "without the setting, labels decide nothing"  # type: ignore[arg-type]


@pytest.mark.parametrize(("worse", "winner"), [(54.0, 2), (55.0, 1)])
def test_labels_count_only_within_the_margin_of_a_swap(worse: float, winner: int) -> None:
    found = promoted(scene(*two(50.0, worse, second=STABLE), *SIX, prefer_healthy=True))  # type: ignore[arg-type]
    assert found.keys() == {winner}


@pytest.mark.parametrize("status", ["testing", "candidate"])
def test_reason_names_the_monitor_that_was_passed_over(status: str) -> None:
    others = SIX if status == "testing" else [*SIX, monitor(17, "active"), *FIVE[:4]]
    found = promoted(
        scene(*two(50.0, 54.0, status, first=TROUBLED, second=STABLE), *others, prefer_healthy=True)  # type: ignore[arg-type]
    )
    assert found[2].endswith("priority 54, 100 results; preferred to m1, priority 50: stable-30d against loses-packets")


def test_healthier_of_two_equals_is_swapped_in() -> None:
    worst = monitor(17, "active", avg_rtt_ms=90.0)
    found = promoted(
        scene(*two(50.0, 54.0, second=STABLE), worst, *SIX, prefer_healthy=True)  # type: ignore[arg-type]
    )
    assert found[2] == (
        "rule 3: swap into active: takes the place of m17, priority 54 against 90; "
        "preferred to m1, priority 50: stable-30d against no such label"
    )
    assert 1 not in found


def test_healthy_label_never_replaces_a_monitor_that_is_not_clearly_worse() -> None:
    settled = scene(*SIX, monitor(17, "active", labels=TROUBLED), monitor(1, "testing", labels=STABLE, avg_rtt_ms=46.0))
    assert not preferring_with_own_labels(settled).review().changes


def preferring_with_own_labels(of: Scene) -> Scene:
    return scene(*of.monitors, prefer_healthy=True)


def test_troubled_monitor_is_still_promoted_if_no_other_is_eligible() -> None:
    few = monitor(2, "testing", labels=STABLE, count=3)
    assert promoted(scene(monitor(1, "testing", labels=TROUBLED), few, *SIX, prefer_healthy=True)).keys() == {1}


def test_labels_and_the_setting_are_shown() -> None:
    of = scene(*two(50.0, 54.0, first=TROUBLED), *SIX, prefer_healthy=True)  # type: ignore[arg-type]
    shown = as_dict(of.review())
    assert shown["prefer_healthy"] is True
    assert {one["id"]: one["labels"] for one in shown["monitors"]}[1] == ["loses-packets", "clock-good"]
    text = as_text(of.review())
    assert "of equally good monitors, the healthier first" in text and "loses-packets clock-good" in text
    assert "labels" not in as_text(scene(*SIX).review()), "without labels there is no column"


# ---- always ----------------------------------------------------------------------------------------------------------


@examples(25)
@given(scenes(), st.integers(0, 99))
def test_labels_decide_only_between_equals(of: Scene, seed: int) -> None:
    labelled = preferring(of, seed)
    promises.preference_decides_between_equals(labelled, labelled.review())
    promises.the_order_of_rows_does_not_matter(labelled, labelled.review())


@examples(10)
@given(scenes(paused=False))
def test_labels_that_change_all_the_time_move_nothing_in_a_settled_server(of: Scene) -> None:
    proof.labels_move_nothing(of)

"""Test the output of `simulate`: the whole input, each rule with its moves and reasons, and the result."""

import json

import pytest
from hypothesis import given

from selector.rules import ORDER
from selector.rules.explain import as_dict, as_text, verdicts
from selector.rules.model import PairStatus, Skipped
from testbed.selection.strategies import examples, scenes
from testbed.selection.worlds import Scene, many, monitor, scene

SIX = many(range(11, 17), "active")
FIVE = many(range(21, 26), "testing", global_status="testing")


def reasons(of: Scene) -> dict[int, str]:
    return {verdict.monitor_id: verdict.reason for verdict in verdicts(of.review())}


def test_every_rule_is_shown_in_its_order() -> None:
    names = [step["rule"] for step in as_dict(scene(*SIX).review())["rules"]]
    assert names == [rule.name for rule in ORDER]
    assert names[:6] == [
        "rule 1: leave at once",
        "rule 3: exchange across a constraint",
        "rule 2: out",
        "rule 1.5: too many active",
        "rule 3: promote to active",
        "rule 3: swap into active",
    ]
    assert names[-3:] == ["rule 2.5: too many testing", "rule 7: free paused pairs", "rule 6: no testing at all"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "rule 3: promote to active: 6 active, target 7; priority 50, 100 results"),
        ({"count": 23}, "stays testing: 23 of 24 results (rule 3: promote to active)"),
        ({"gone": True}, "stays testing: is gone (rule 3: promote to active)"),
        (
            {"global_status": "testing"},
            "stays testing: globally testing: only a globally active monitor becomes active "
            "(rule 3: promote to active)",
        ),
        (
            {"account_id": 11, "limit": 1},
            "stays testing: would violate limit as active (rule 3: promote to active)",
        ),
        (
            {"avg_step": -1.0},
            "stays testing: unhealthy: average step -1.00, but only violations leave when 3 or fewer are testing "
            "(rule 2: out)",
        ),
    ],
)
def test_reason_of_a_testing_monitor_is_given(values: dict[str, object], reason: str) -> None:
    assert reasons(scene(monitor(1, "testing", **values), *SIX))[1] == reason


def test_reasons_of_other_monitors_are_given() -> None:
    said = reasons(
        scene(
            *SIX,
            monitor(17, "active", gone=True),
            monitor(1, "candidate", count=3),
            monitor(2, "candidate", global_status="deleted"),
            monitor(3, "paused", ip="192.0.2.9", pause_reason="constraint"),
            Skipped(id=4, name="m4", pair_status=PairStatus.TESTING, reason="address 'x': is none"),
            *FIVE[:4],
        )
    )
    assert said[1] == "stays candidate: 3 of 9 results (rule 5: promote to testing)"
    assert said[2] == "stays candidate: globally deleted: has no place to leave (rule 1: leave at once)"
    assert said[3] == "stays paused: violates network_same_subnet (rule 7: free paused pairs)"
    assert said[4] == "left out: address 'x': is none"
    assert said[11] == "stays active: no testing monitor is clearly better (rule 3: swap into active)"
    assert said[17] == (
        "stays active: m21 is better, but: globally testing: only a globally active monitor becomes active "
        "(rule 3: swap into active)"
    )


def test_the_text_shows_input_rules_and_result() -> None:
    there = scene(
        monitor(1, "testing"),
        *SIX,
        monitor(2, "active", ip="10.11.15.1", avg_rtt_ms=80.0),
        Skipped(id=9, name="m9", pair_status=None, reason="protocol 'v5': must be v4 or v6"),
    )
    text = as_text(there.review())
    assert "server 1 (192.0.2.1, account 900) at 2026-03-01T12:00:00+00:00" in text
    assert "network_diversity since 2026-03-01T12:00:00+00:00" in text
    assert "left out: m9 (status unknown): protocol 'v5': must be v4 or v6" in text
    assert "\nrule 2: out  (" in text
    assert "  m2: active -> candidate: violates network_diversity\n" in text
    assert "  m1: testing -> active: 6 active, target 7; priority 50, 100 results\n" in text
    assert "\n  active      7  m1, m11, m12" in text


def test_emergency_is_shown() -> None:
    review = scene(monitor(1, "testing", count=9)).review()
    assert as_dict(review)["emergency"] is True
    assert "EMERGENCY" in as_text(review)
    assert "emergency: 0 active" in as_text(review)


@examples(10)
@given(scenes())
def test_any_review_can_be_explained_for_every_monitor(there: Scene) -> None:
    review = there.review()
    told = json.loads(json.dumps(as_dict(review)))
    assert {row["id"] for row in told["monitors"]} | {row["id"] for row in told["left_out"]} == {
        row.id for row in there.monitors
    }
    moved = {move["monitor_id"] for step in told["rules"] for move in step["moves"]}
    for verdict in verdicts(review):
        assert verdict.reason
        assert (verdict.rule is not None) is (verdict.monitor_id in moved) is (verdict.before is not verdict.after)
    judged = [verdict for verdict in verdicts(review) if verdict.rule is None]
    assert all(" " in verdict.reason for verdict in judged)
    for step in told["rules"]:
        assert not {move["monitor_id"] for move in step["moves"]} & {stay["monitor_id"] for stay in step["stays"]}
        assert all("None" not in stay["reason"] for stay in step["stays"]), step
    as_text(review)

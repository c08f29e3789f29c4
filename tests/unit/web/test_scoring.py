"""Test that the explanation of scores follows from the constants of the scorer."""

import pytest

from runtime.db.system_settings import Intervals
from scorer import formula
from scorer.formula import Step
from web.scoring import FACTS, compute, number, rules, tier_words


@pytest.mark.parametrize(
    ("offset", "stratum", "leap", "found", "settles_at"),
    [
        (0.0, 2, 0, formula.GOOD, 20.0),
        (-0.025, 2, 0, formula.GOOD, 20.0),
        (4.0, 2, 0, formula.FAR_OFF, -80.0),
        (-0.8, 2, 0, formula.OFF, -40.0),
        (0.0, 8, 0, formula.TOO_FAR_FROM_REFERENCE, -80.0),
        (0.0, 2, 3, formula.NOT_FOLLOWED, -80.0),
        (0.0, 0, 0, formula.UNSYNCHRONISED, -40.0),
        (None, 2, 0, formula.NO_RESPONSE, -100.0),
    ],
)
def test_calculator(offset: float | None, stratum: int, leap: int, found: Step, settles_at: float) -> None:
    computed = compute(offset, stratum, leap)
    assert computed.step.step == pytest.approx(found.step) and computed.step.maximum == found.maximum
    assert computed.settles_at == pytest.approx(settles_at, abs=1e-5)


def test_the_table_has_every_step_of_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {name: value for name, value in vars(formula).items() if isinstance(value, Step)}
    for name, value in steps.items():
        assert (number(value.step), value.maximum) in {(rule.step, rule.maximum) for rule in rules()}, name
        monkeypatch.setattr(formula, name, Step(-7.25, -77.0))
        assert ("−7.25", -77.0) in {(rule.step, rule.maximum) for rule in rules()}, name  # noqa: RUF001
        monkeypatch.undo()


@pytest.mark.parametrize(
    "name",
    ["FARTHEST_ROOT", "FAR_OFF_BEYOND", "WORST_STRATUM", "COARSE_SLOPE", "COARSE_BASE", "FINE_SLOPE", "FINE_BASE"],
)
def test_the_table_has_every_constant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formula, name, 88)
    assert any("88" in rule.result + rule.step for rule in rules())


@pytest.mark.parametrize("name", ["OFF_BEYOND", "COARSE_BEYOND", "FINE_BEYOND"])
def test_the_table_has_every_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formula, name, 0.0885)
    assert any("88.5 ms" in rule.result for rule in rules())


def test_tiers_follow_from_the_intervals_in_force() -> None:
    tiers = tier_words(Intervals())
    assert [tier.statuses for tier in tiers] == ["active", "active and testing", "testing and candidate"]
    assert tiers[0].minutes == int(Intervals().interval_active * FACTS["recent"] / 60)

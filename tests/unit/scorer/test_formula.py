"""Test the score formula: every line of its table just inside and just outside, and where scores settle."""

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.messages import Result
from scorer.formula import BEST_SCORE, Step, error_of, next_score, step

TS = datetime(2026, 1, 2, tzinfo=UTC)


def result(**fields: Any) -> Result:
    return Result(server_id=1, ip="192.0.2.1", ts=TS, **{"stratum": 2, **fields})


results_with_roots = st.builds(
    Result,
    server_id=st.just(1),
    ip=st.just("192.0.2.1"),
    ts=st.just(TS),
    offset=st.none() | st.floats(-10, 10),
    stratum=st.none() | st.integers(0, 20),
    leap=st.none() | st.integers(0, 3),
    error=st.none() | st.sampled_from(["", "RATE", "DENY", "network: x", "bad stratum 0", "not synchronised"]),
    no_response=st.booleans(),
    root_delay=st.none() | st.floats(0, 20),
    root_dispersion=st.none() | st.floats(0, 20),
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"no_response": True}, Step(-5.0)),
        ({"no_response": True, "stratum": 0, "error": "DENY"}, Step(-5.0)),
        ({"error": "network: no route to host"}, Step(-5.0)),
        ({"stratum": 0, "error": "RATE"}, Step(-3.5)),
        ({"stratum": 2, "error": "RATE"}, Step(-4.0)),
        ({"stratum": 0, "error": "RSTR"}, Step(-10.0, -50.0)),
        ({"stratum": 0, "error": "DENY", "offset": 0.0}, Step(-10.0, -50.0)),
        ({"stratum": 1, "error": "DENY"}, Step(-4.0)),
        ({"stratum": 0}, Step(-2.0, 5.0)),
        ({"stratum": 0, "error": "", "offset": 9.0}, Step(-2.0, 5.0)),
        ({"stratum": 0, "error": "INIT"}, Step(-4.0)),
        ({"stratum": 16, "error": "bad stratum 16", "offset": 0.001}, Step(-4.0)),
        ({"offset": None}, Step(-4.0)),
        ({"offset": 3.000001}, Step(-4.0, -20.0)),
        ({"offset": -3.000001, "stratum": 9}, Step(-4.0, -20.0)),
        ({"offset": 3.0}, Step(-2.0)),
        ({"offset": 0.0, "stratum": 8}, Step(-4.0)),
        ({"offset": 0.0, "stratum": 7}, Step(1.0)),
        ({"offset": 0.0, "stratum": None}, Step(1.0)),
        ({"offset": 0.0, "leap": 3}, Step(-4.0)),
        ({"offset": 0.0, "leap": 2}, Step(1.0)),
        ({"offset": 9.0, "leap": 3}, Step(-4.0)),
        ({"offset": 0.0, "leap": 3, "stratum": 0}, Step(-2.0, 5.0)),
        ({"offset": 0.0, "leap": 3, "stratum": 0, "error": "RATE"}, Step(-3.5)),
        ({"offset": 0.0, "leap": 3, "no_response": True}, Step(-5.0)),
        ({"offset": 0.0, "root_delay": 2.0, "root_dispersion": 2.0}, Step(1.0)),
        ({"offset": 0.0, "root_delay": 2.0, "root_dispersion": 2.0001}, Step(-4.0)),
        ({"offset": 0.0, "root_delay": 6.0}, Step(1.0)),
        ({"offset": 0.0, "root_delay": 6.0001}, Step(-4.0)),
        ({"offset": 0.0, "root_dispersion": 3.0}, Step(1.0)),
        ({"offset": 9.0, "root_dispersion": 16.0}, Step(-4.0)),
        ({"offset": 0.0, "error": "not synchronised"}, Step(-4.0)),
        ({"offset": 0.0, "error": "root distance 16.5 s"}, Step(-4.0)),
        ({"offset": -0.750001}, Step(-2.0)),
        ({"offset": 0.75}, Step(-2.308 * 0.75 + 0.731)),
        ({"offset": -0.4}, Step(-2.308 * 0.4 + 0.731)),
        ({"offset": 0.100001}, Step(-2.308 * 0.100001 + 0.731)),
        ({"offset": 0.1}, Step(-6.667 * 0.1 + 1.167)),
        ({"offset": -0.06}, Step(-6.667 * 0.06 + 1.167)),
        ({"offset": 0.0250001}, Step(1.0)),
        ({"offset": 0.025}, Step(1.0)),
        ({"offset": -0.0}, Step(1.0)),
    ],
)
def test_step_follows_the_table(fields: dict[str, Any], expected: Step) -> None:
    assert step(result(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"offset": 0.0}, None),
        ({"offset": 0.0, "leap": 3}, "not synchronised"),
        ({"offset": 0.0, "root_delay": 1.0, "root_dispersion": 16.0}, "root distance 16.5 s"),
        ({"offset": 0.0, "leap": 3, "error": "bad stratum 16"}, "bad stratum 16"),
        ({"leap": 3}, None),
        ({"leap": 3, "offset": 0.0, "stratum": 0}, None),
        ({"leap": 3, "no_response": True}, None),
    ],
)
def test_error_is_the_monitors_or_the_tables(fields: dict[str, Any], error: str | None) -> None:
    assert error_of(result(**fields)) == error


@given(results_with_roots)
def test_step_can_be_recomputed_from_the_stored_fields(given_result: Result) -> None:
    """Root delay and dispersion are not stored, but the error is."""
    kept = msgspec.structs.replace(given_result, error=error_of(given_result), root_delay=None, root_dispersion=None)
    assert step(kept) == step(given_result)


def test_scores_decay_and_are_capped() -> None:
    assert next_score(20.0, Step(1.0)) == 20.0
    assert next_score(0.0, Step(-5.0)) == -5.0
    assert next_score(20.0, Step(-10.0, -50.0)) == -50.0
    assert next_score(-100.0, Step(-10.0, -50.0)) == -105.0
    assert next_score(20.0, Step(-2.0, 5.0)) == 5.0


def settled(**fields: Any) -> float:
    score = 0.0
    for _ in range(500):
        score = next_score(score, step(result(**fields)))
    return score


@pytest.mark.parametrize(
    ("fields", "score"),
    [
        ({"offset": 0.0}, 20.0),
        ({"no_response": True}, -100.0),
        ({"offset": 5.0}, -80.0),
        ({"offset": 0.4}, 20 * (-2.308 * 0.4 + 0.731)),
        ({"stratum": 0, "error": "DENY"}, -200.0),
    ],
)
def test_scores_converge_to_the_expected_value(fields: dict[str, Any], score: float) -> None:
    assert settled(**fields) == pytest.approx(score, abs=1e-6)


results = st.builds(
    Result,
    server_id=st.just(1),
    ip=st.just("192.0.2.1"),
    ts=st.just(TS),
    offset=st.none() | st.floats(-10, 10) | st.floats(allow_nan=False, allow_infinity=False),
    stratum=st.none() | st.integers(0, 255),
    error=st.none() | st.sampled_from(["", "RATE", "DENY", "RSTR", "XXXX", "network: x", "bad stratum 0"]),
    no_response=st.booleans(),
)


@given(results)
def test_steps_stay_within_the_range_of_the_table(given_result: Result) -> None:
    found = step(given_result)
    assert -10.0 <= found.step <= 1.0
    assert found.maximum in (None, 5.0, -20.0, -50.0)
    if found.step > 0:
        assert given_result.offset is not None
        assert abs(given_result.offset) < 0.32
        assert not given_result.error


@given(st.lists(results, min_size=1, max_size=50), st.floats(-200, 20))
def test_scores_stay_within_bounds(series: list[Result], score: float) -> None:
    for each in series:
        score = next_score(score, step(each))
        assert math.isfinite(score)
        assert -200.0 - 1e-9 <= score <= BEST_SCORE + 1e-9


@given(st.floats(0, 4), st.floats(0, 4))
def test_a_smaller_offset_is_never_worse(a: float, b: float) -> None:
    near, far = sorted((a, b))
    better, worse = step(result(offset=near)), step(result(offset=far))
    assert better.step >= worse.step


@given(st.floats(-5, 5))
def test_the_sign_of_an_offset_does_not_matter(offset: float) -> None:
    assert step(result(offset=offset)) == step(result(offset=-offset))

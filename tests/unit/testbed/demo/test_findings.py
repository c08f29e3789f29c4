"""Test the reason, derived from its results, why a server is not handed out."""

from datetime import UTC, datetime
from typing import Any

import pytest

from testbed.checker.replay import LogRow
from testbed.demo.findings import Findings

SERVER = 7
GOOD = {"step": 1.0, "offset": 0.001}
SILENT = {"step": -5.0, "offset": None, "no_response": True}
AHEAD = {"step": -4.0, "offset": 5.04}
KISS = {"step": -3.5, "offset": None, "error": "RATE"}


def row(server_id: int = SERVER, **given: Any) -> LogRow:
    common = {"monitor_id": 1, "ts": datetime(2026, 1, 1, tzinfo=UTC), "score": 0.0, "rtt": None, "stratum": 2}
    return LogRow(**{"server_id": server_id, "error": None, "no_response": False, **common, **given})


def against(*kinds: dict[str, Any], score: float | None = -3.0, may_serve: int = 8) -> str | None:
    return Findings().all(row(**kind) for kind in kinds).against(SERVER, score, may_serve)


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        ([SILENT] * 5, "does not answer"),
        ([AHEAD] * 5, "clock is 5.0 s ahead"),
        ([{"step": -0.2, "offset": -0.4}] * 5, "clock is 400 ms behind"),
        ([{"step": -4.0, "offset": 0.0, "error": "bad stratum 16"}] * 5, "error: bad stratum 16"),
        ([{"step": -4.0, "offset": None}] * 5, "sends no time"),
        ([KISS, GOOD, GOOD], "error: RATE, 33% of the time"),
        ([SILENT] + [GOOD] * 9, "does not answer, 10% of the time"),
        ([SILENT] * 2 + [AHEAD] * 3, "clock is 5.0 s ahead, 60% of the time"),
        ([SILENT] * 19 + [GOOD], "does not answer"),
        ([GOOD] * 5, "score is still rising"),
        ([SILENT] + [GOOD] * 12, "score is still rising"),  # settles at 20 times 7/13
        ([SILENT] + [GOOD] * 11, "does not answer, 8% of the time"),  # settles at 20 times 6/12, which is 10
        ([{"step": 0.0, "offset": 0.3}], "score is still rising"),
    ],
)
def test_reason_is_the_most_common_fault_of_the_results(kinds: list[dict[str, Any]], why: str) -> None:
    assert against(*kinds) == why


@pytest.mark.parametrize(("score", "why"), [(10.1, None), (10.0, "does not answer"), (None, "no score")])
def test_server_with_a_score_above_ten_has_no_reason(score: float | None, why: str | None) -> None:
    assert against(SILENT, score=score) == why


def test_reason_without_results_depends_on_the_eligible_monitors() -> None:
    assert against() == "no results"
    assert against(may_serve=0) == "every monitor shares its account or network"


def test_only_the_last_hundred_results_of_the_server_count() -> None:
    findings = Findings().all([row(**SILENT)] * 500 + [row(**GOOD)] * 100 + [row(8, **SILENT)] * 100)
    assert findings.against(SERVER, 3.0, 8) == "score is still rising"
    assert findings.against(8, 3.0, 8) == "does not answer"


def test_error_text_of_a_monitor_is_made_printable_and_short() -> None:
    said = against({"step": -4.0, "offset": None, "error": "\x1b[2Jnetwork: " + "x" * 500})
    assert said is not None and said.isprintable() and len(said) <= 40

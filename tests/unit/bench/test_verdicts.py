"""Test that benchmarks and fault runs can fail: a missed bound, a difference, or nothing to compare."""

import json
from dataclasses import replace

import pytest

from bench.faults.plan import Planned
from bench.faults.report import Found, Struck, print_all, summarize
from bench.faults.verdict import Verdict
from bench.figure import Figure, percentile, report
from bench.measure import differences
from testbed.checker.check import Checked
from testbed.checker.difference import Difference


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("f", 10.0, "ms", at_most=10.0), True),
        (Figure("f", 10.1, "ms", at_most=10.0), False),
        (Figure("f", 10.0, "1/s", at_least=10.0), True),
        (Figure("f", 9.9, "1/s", at_least=10.0), False),
        (Figure("f", 0.0, "ms", at_least=10.0), False),
        (Figure("f", float("nan"), "ms", at_most=10.0), False),
        (Figure("f", float("nan"), "1/s", at_least=10.0), False),
        (Figure("f", 10.0, "ms"), None),
    ],
)
def test_missed_bound_gives_exit_code_1(figure: Figure, met: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert figure.met is met
    assert report(Figure("other", 1.0, "ms", at_most=2.0), figure) == (1 if met is False else 0)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_benchmark_without_a_figure_fails() -> None:
    assert report() == 1


def test_percentile_is_one_of_the_values_and_needs_at_least_one() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 20, 50, 80, 81, 99, 100)] == [1, 1, 3, 4, 5, 5, 5]
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)


GONE = Difference("lost", "a batch is gone")


@pytest.mark.parametrize(
    ("runs", "count"),
    [
        ([Checked(100, ()), Checked(1, ())], 0),
        ([Checked(100, (GONE, GONE)), Checked(1, (GONE,))], 3),
        ([], 1),
        ([Checked(100, ()), Checked(0, ())], 1),
        ([Checked(0, (GONE,))], 2),
    ],
)
def test_comparison_of_nothing_counts_as_a_difference(runs: list[Checked], count: int) -> None:
    figure = differences("d", runs)
    assert (figure.value, figure.met) == (count, count == 0)


STRUCK = [Struck(Planned(at=1.0, seconds=2.0, kind="kill", target="ingest", luck=0.5))]
SEEN = Verdict(attempted=100, acknowledged=90, stored=80, discarded=0, differences=())


def test_fault_run_without_findings_is_good() -> None:
    summary = summarize(1, 30.0, 1, STRUCK, SEEN, Found())
    assert (summary.good, summary.lost, summary.duplicated, summary.unexplained, summary.unseen) == (True, 0, 0, 0, [])


def test_long_fault_run_without_a_renewal_has_not_shown_what_it_promises() -> None:
    assert summarize(1, 1200.0, 1, STRUCK, SEEN, Found()).unseen == ["no certificate was renewed"]
    assert summarize(1, 1200.0, 1, STRUCK, replace(SEEN, renewals=1), Found()).good


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        (Found([GONE]), (1, 0, 0)),
        (Found([Difference("duplicated", "x"), Difference("invented", "y")]), (0, 2, 0)),
        (Found([Difference("score", "x")]), (0, 0, 1)),
        (Found([GONE], ["scorer was killed by SIGSEGV"]), (1, 0, 1)),
        (Found([], ["scorer was killed by SIGSEGV"]), (0, 0, 1)),
    ],
)
def test_any_finding_is_counted_and_fails_the_fault_run(
    found: Found, counts: tuple[int, int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = summarize(1, 30.0, 1, STRUCK, SEEN, found)
    assert not summary.good
    assert (summary.lost, summary.duplicated, summary.unexplained) == counts
    print_all(summary, found)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == sum(counts) + 1
    assert json.loads(printed[-1])["good"] is False


@pytest.mark.parametrize(
    ("struck", "seen", "reasons"),
    [
        ([], SEEN, ["no fault occurred"]),
        (STRUCK, Verdict(100, 0, 0, 0, ()), ["no result was acknowledged", "no result was stored"]),
        (
            STRUCK,
            Verdict(0, 0, 0, 0, ()),
            ["no result was attempted", "no result was acknowledged", "no result was stored"],
        ),
    ],
)
def test_fault_run_without_faults_or_results_is_not_good(
    struck: list[Struck], seen: Verdict, reasons: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = summarize(1, 30.0, 1, struck, seen, Found())
    assert (summary.good, summary.unseen) == (False, reasons)
    print_all(summary, Found())
    assert capsys.readouterr().out.splitlines()[:-1] == [f"unseen: {reason}" for reason in reasons]

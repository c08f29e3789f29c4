"""Test recentmedian: which results count, and which of them is the score."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.db.system_settings import Intervals
from schema.messages import PairStatus
from scorer.model import PairScore, Score, latest_per_monitor
from scorer.scorers import POOL_SCORER, all_scorers
from scorer.scorers.recentmedian import SCORER, median, tiers

NOW = datetime(2026, 1, 2, 12, 0, 0)
INTERVALS = Intervals()
MINUTES: dict[PairStatus, float] = {"active": 19.8, "testing": 99.0, "candidate": 264.0}  # 2.2 times 9, 45 and 120
SECOND = timedelta(seconds=1)
_ids = count(1)


def result(
    score: float = 20.0,
    status: PairStatus | None = "active",
    *,
    age: float | timedelta = 0.0,
    rtt: int | None = 20_000,
    monitor: int | None = None,
    id: int | None = None,
) -> PairScore:
    """Return a result of ``age`` minutes ago, by default of a separate monitor."""
    number = next(_ids)
    before = age if isinstance(age, timedelta) else timedelta(minutes=age)
    return PairScore(id or number, monitor or number, status, NOW - before, score, 1.0, rtt)


def score(*results: PairScore, intervals: Intervals = INTERVALS) -> float | None:
    computed = SCORER.compute(results, intervals)
    return None if computed is None else computed.score


# ---- which results count -------------------------------------------------------------------------------------------


def test_without_results_there_is_no_score() -> None:
    assert score() is None


def test_windows_are_as_published() -> None:
    assert [(tier.statuses, tier.window) for tier in tiers(INTERVALS)] == [
        ({"active"}, timedelta(minutes=19.8)),
        ({"active", "testing"}, timedelta(minutes=99)),
        ({"testing", "candidate"}, timedelta(minutes=264)),
    ]


@pytest.mark.parametrize("status", ["active", "testing", "candidate"])
def test_result_counts_until_the_end_of_its_window(status: PairStatus) -> None:
    """The others are the newest result, of a paused monitor, and an older one that decides once this one is too old."""
    window = timedelta(minutes=MINUTES[status])
    others = [result(-99, "paused"), result(3, "candidate", age=timedelta(minutes=200))]
    if status == "active":
        others.append(result(3, "testing", age=50))
    elif status == "candidate":
        others = others[:1]
    assert score(*others, result(7, status, age=window)) == 7
    beyond = score(*others, result(7, status, age=window + SECOND))
    assert beyond == {"active": 3, "testing": 3, "candidate": None}[status]


def test_recent_active_monitor_excludes_all_others() -> None:
    others = [result(-50, "testing"), result(-50, "candidate"), result(-50, "paused"), result(-50, None)]
    assert score(result(20, "active", age=19), *others) == 20


def test_testing_and_older_active_monitors_count_second() -> None:
    results = [result(1, "active", age=30), result(2, "testing", age=5), result(3, "testing")]
    assert score(*results, result(-50, "candidate")) == 2
    assert score(*results[1:], result(9, "active", age=100)) == 2, "the active one is too old: the older of two"


def test_candidates_and_older_testing_monitors_count_last() -> None:
    results = [result(1, "testing", age=120), result(2, "candidate", age=5), result(3, "candidate")]
    assert score(*results) == 2
    assert score(*results, result(-50, "active", age=150)) == 2, "an active monitor that is silent has no say here"


def test_paused_and_former_monitors_contribute_only_their_time() -> None:
    assert score(result(5, "paused"), result(6, None)) is None
    assert score(result(5, None), result(20, "active", age=21), result(11, "testing", age=22)) == 11


def test_windows_follow_the_pools_intervals() -> None:
    short = Intervals(interval_active=2, interval_testing=4, interval_candidate=8)
    old = result(1, "active", age=timedelta(seconds=5))
    assert score(old, result(2, "testing", age=SECOND), result(3, "testing"), intervals=short) == 2
    assert score(old, result(2, "testing", age=SECOND), result(3, "testing")) == 1


# ---- which of them is the score ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "middle"),
    [
        ([3, 1, 2], 2),
        ([4, 1, 3, 2], 2),
        ([5, 4, 3, 2, 1], 3),
        ([-100, 20, 20, 20], 20),
        ([-100, -100, 20, 20], -100),
        ([20, 20, 20, 20, 20, -100, -100], 20),
    ],
)
def test_median_is_the_middle_or_the_lower_of_two(scores: list[float], middle: float) -> None:
    assert median([result(s) for s in scores]).score == middle


def test_equal_scores_are_ordered_by_rtt_then_id_with_missing_rtt_first() -> None:
    a, b, c = result(rtt=30_000, id=1), result(rtt=10_000, id=2), result(rtt=20_000, id=3)
    assert median([a, b, c]).from_ls_id == 3
    assert median([a, b, c, result(rtt=None, id=9)]).from_ls_id == 2
    assert median([result(rtt=0, id=1), result(rtt=None, id=2), result(rtt=1, id=3)]).from_ls_id == 2
    assert median([result(rtt=None, id=1), result(rtt=0, id=2), result(rtt=1, id=3)]).from_ls_id == 2
    same = [result(id=i) for i in (7, 5, 6)]
    assert median(same).from_ls_id == 6


@pytest.mark.parametrize("newer", [-50.0, 20.0])
def test_oldest_of_fewer_than_three_results_is_used(newer: float) -> None:
    assert median([result(newer), result(5, age=1)]).score == 5
    assert median([result(newer)]).score == newer


def test_of_two_results_in_the_same_second_the_first_stored_is_older() -> None:
    assert median([result(1, id=12), result(2, id=11)]).from_ls_id == 11


def test_score_contains_the_id_of_its_result() -> None:
    assert median([PairScore(42, 1, "active", NOW, -3.5, -5.0, None)]) == Score(-3.5, -5.0, 42)


def test_only_the_latest_and_last_stored_result_of_a_monitor_counts() -> None:
    old, new, newer = (result(s, age=a, monitor=1, id=i) for s, a, i in [(1, 5, 99), (2, 0, 3), (3, 0, 4)])
    assert latest_per_monitor([newer, old, new]) == [newer]


# ---- properties ----------------------------------------------------------------------------------------------------

STATUSES: Sequence[PairStatus | None] = ("active", "testing", "candidate", "paused", None)


@st.composite
def histories(draw: st.DrawFn) -> list[PairScore]:
    """Results of up to twelve monitors over some hours, in order of their ids."""
    status = draw(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=12))
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, len(status) - 1),
                st.integers(0, 20_000),
                st.sampled_from([-100.0, -5.0, 0.0, 9.9, 10.0, 19.5, 20.0]),
                st.sampled_from([None, 5_000, 20_000]),
            ),
            max_size=40,
        )
    )
    return [
        PairScore(id, monitor, status[monitor], NOW - timedelta(seconds=age), value, 1.0, rtt)
        for id, (monitor, age, value, rtt) in enumerate(rows, 1)
    ]


@given(histories(), st.randoms())
def test_the_order_of_the_rows_does_not_matter(results: list[PairScore], random: object) -> None:
    shuffled = list(results)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert SCORER.compute(shuffled, INTERVALS) == SCORER.compute(results, INTERVALS)


@given(histories(), st.integers(1, 10**9))
def test_time_that_passes_without_results_changes_nothing(results: list[PairScore], seconds: int) -> None:
    later = [r._replace(ts=r.ts + timedelta(seconds=seconds)) for r in results]
    assert SCORER.compute(later, INTERVALS) == SCORER.compute(results, INTERVALS)


@given(histories())
def test_score_is_that_of_an_eligible_latest_result(results: list[PairScore]) -> None:
    computed = SCORER.compute(results, INTERVALS)
    if computed is None:
        return
    source = next(r for r in results if r.log_score_id == computed.from_ls_id)
    assert (source.score, source.step) == (computed.score, computed.step)
    assert source.status in ("active", "testing", "candidate")
    assert source in latest_per_monitor(results)


@given(histories())
def test_score_is_the_median_of_the_first_tier_with_results(results: list[PairScore]) -> None:
    """Compare with a second implementation, which is as simple as possible."""
    newest = max((r.ts for r in results), default=NOW)
    latest = {r.monitor_id: r for r in sorted(results, key=lambda r: (r.ts, r.log_score_id))}.values()

    def within(minutes: float, *statuses: str) -> list[PairScore]:
        return [r for r in latest if r.status in statuses and newest - r.ts <= timedelta(minutes=minutes)]

    chosen = within(19.8, "active") or within(99, "active", "testing") or within(264, "testing", "candidate")
    if not chosen:
        expected = None
    elif len(chosen) < 3:
        expected = min(chosen, key=lambda r: (r.ts, r.log_score_id)).log_score_id
    else:
        ordered = sorted(chosen, key=lambda r: (r.score, r.rtt or 0, r.log_score_id))
        expected = ordered[len(ordered) // 2 - (len(ordered) % 2 == 0)].log_score_id
    computed = SCORER.compute(results, INTERVALS)
    assert (None if computed is None else computed.from_ls_id) == expected


@given(
    st.lists(st.floats(15, 20), min_size=4, max_size=9),
    st.lists(st.floats(-100, 20), max_size=4),
)
def test_minority_of_wrong_monitors_cannot_lower_a_good_score(good: list[float], bad: list[float]) -> None:
    few = bad[: (len(good) - 1) // 2]
    assert median([result(s) for s in [*few, *good]]).score >= 15


# ---- the registry --------------------------------------------------------------------------------------------------


def test_the_pools_scorer_is_found_under_its_name() -> None:
    found = {scorer.name: scorer for scorer in all_scorers()}
    assert found[POOL_SCORER] is SCORER
    assert SCORER.tls_name == "recentmedian.scores.ntp.dev"

"""Test for each label what raises it, what keeps it and what clears it; constant facts never make a label flap."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.health import MAX_REASON, HealthLabel
from selector.health.facts import DAY, HOUR, Attendance, MonitorFacts
from selector.health.hours import MonitorHour
from selector.health.labels import judge
from testbed.random_inputs import examples

END = datetime(2026, 3, 1, 12)
LATEST = tuple(END - HOUR * (n + 1) for n in range(24))


def hour(**values: Any) -> MonitorHour:
    """Make an hour of a good monitor: 100 probes, none lost, a clock that is right."""
    usual = {"monitor_id": 1, "servers": 50, "probes": 100, "judged": 100, "lost": 0, "expected_lost": 0.0}
    more = {"clock_offset": 0.001, "clock_servers": 50, "nearest_rtt": 0.01}
    return MonitorHour(**{**usual, **more, **values})


def hours(number: int = 24, **values: Any) -> dict[datetime, MonitorHour]:
    """Make this number of equal hours, the latest ones of the day."""
    return {start: hour(**values) for start in LATEST[:number]}


def facts(**values: Any) -> MonitorFacts:
    """Make the facts of a good monitor that has been there for 40 days."""
    usual: dict[str, Any] = {
        "monitor_id": 1,
        "ipv": "v6",
        "age": timedelta(days=40),
        "days": (Attendance(24, 24),) * 7,
        "month": Attendance(720, 720),
        "hours": hours(),
        "latest": LATEST,
        "sibling": {},
    }
    return MonitorFacts(**{**usual, **values})


GOOD = {HealthLabel.STABLE_1D, HealthLabel.STABLE_30D, HealthLabel.CLOCK_GOOD}


def days(*missed: int) -> tuple[Attendance, ...]:
    """Make seven days with these numbers of missed hours, and none on the others."""
    return tuple(Attendance(24 - number, 24) for number in (*missed, *(0,) * (7 - len(missed))))


def some_missing(number: int, **values: Any) -> dict[datetime, MonitorHour]:
    """Make a day without the latest ``number`` hours."""
    return dict(islice(hours(24, **values).items(), number, None))


def mixed(bad: int, **values: Any) -> dict[datetime, MonitorHour]:
    """Make a day with ``bad`` hours of these values and otherwise good ones."""
    return hours() | hours(bad, **values)


Case = tuple[str, Callable[[float], MonitorFacts], float, float, float]

CASES: list[Case] = [
    # Label, facts from a value; the value that raises it, one that keeps it but does not raise it, one that clears it.
    ("stable-1d", lambda n: facts(days=days(int(n))), 0, 1, 2),
    ("stable-1d", lambda n: facts(days=(Attendance(int(n), int(n)), *days())), 18, 12, 11),
    ("stable-1d", lambda n: facts(hours=hours(probes=n)), 10, 5, 4),
    ("stable-30d", lambda n: facts(month=Attendance(720 - int(n), 720)), 3, 7, 8),
    ("stable-30d", lambda n: facts(month=Attendance(int(n), int(n))), 540, 360, 359),
    ("stable-30d", lambda n: facts(hours=hours(probes=n)), 10, 5, 4),
    ("clock-good", lambda s: facts(hours=hours(clock_offset=s)), 0.005, 0.010, 0.0101),
    ("clock-good", lambda s: facts(hours=hours(clock_offset=s)), -0.005, -0.010, -0.0101),
    ("clock-good", lambda n: facts(hours=hours(int(n))), 3, 1, 0),
    ("clock-off", lambda s: facts(hours=hours(clock_offset=s)), 0.025, 0.015, 0.0149),
    ("clock-off", lambda s: facts(hours=hours(clock_offset=s)), -0.025, -0.015, -0.0149),
    ("clock-off", lambda n: facts(hours=hours(int(n), clock_offset=1.0)), 3, 1, 0),
    ("loses-packets", lambda n: facts(hours=hours(lost=n)), 2, 1, 0.9),
    ("loses-packets", lambda n: facts(hours=hours(lost=5, expected_lost=n)), 3, 4, 4.1),
    ("loses-packets", lambda n: facts(hours=hours(int(n), lost=9)), 3, 1, 0),
    ("v6-flaky", lambda n: facts(hours=mixed(int(n), lost=25), sibling=hours()), 3, 2, 1),
    ("v6-flaky", lambda n: facts(hours=some_missing(int(n)), sibling=hours()), 3, 2, 1),
    ("v6-flaky", lambda n: facts(hours=some_missing(24), sibling=hours(int(n))), 3, 2, 1),
    ("v6-flaky", lambda n: facts(hours=some_missing(9, probes=n), sibling=hours()), 10, 5, 4),
    ("v4-flaky", lambda n: facts(ipv="v4", hours=mixed(int(n), lost=99), sibling=hours()), 3, 2, 1),
    ("offline-often", lambda n: facts(days=days(*(8,) * int(n))), 3, 2, 1),
    ("offline-often", lambda n: facts(days=days(8, 8, 8), hours=hours(probes=n)), 10, 5, 4),
    ("far-from-all", lambda s: facts(hours=hours(nearest_rtt=s)), 0.150, 0.120, 0.119),
    ("far-from-all", lambda n: facts(hours=hours(int(n), nearest_rtt=0.6)), 6, 3, 2),
]


@pytest.mark.parametrize(
    ("name", "make", "raises", "keeps", "clears"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_label_is_raised_kept_and_cleared(
    name: str, make: Callable[[float], MonitorFacts], raises: float, keeps: float, clears: float
) -> None:
    label = HealthLabel(name)
    assert label in judge(make(raises), ())
    assert label not in judge(make(keeps), ()), "it is not raised yet"
    assert label in judge(make(keeps), [label])
    assert label not in judge(make(clears), [label])


def test_good_monitor_has_no_trouble() -> None:
    assert judge(facts(), ()).keys() == GOOD
    assert not any(label.is_trouble for label in GOOD)


@pytest.mark.parametrize(
    ("label", "found", "reason", "figures"),
    [
        (
            HealthLabel.LOSES_PACKETS,
            facts(hours=hours(probes=512, judged=512, lost=21, expected_lost=2.0)),
            "lost 4.1 % of 12 288 probes to servers that others reach, 24 h; others lost 0.4 %",
            {"lost": 504, "probes": 12_288, "share": 0.04102, "share_of_others": 0.00391},
        ),
        (
            HealthLabel.CLOCK_OFF,
            facts(hours=hours(clock_offset=-0.0342, clock_servers=1_200)),
            "its clock is 34.2 ms behind those of other monitors at 1 200 servers, 6 h",
            {"offset": -0.0342, "servers": 1_200, "hours": 6},
        ),
        (
            HealthLabel.STABLE_30D,
            facts(month=Attendance(718, 720)),
            "delivered results in 99.7 % of 720 hours, 30 d",
            {"hours": 718, "of": 720},
        ),
        (
            HealthLabel.OFFLINE_OFTEN,
            facts(days=days(10, 9, 0, 12)),
            "came and went on 3 of the last 7 days: no results in 31 of 168 hours",
            {"days": 3, "missed": 31, "of": 168},
        ),
        (
            HealthLabel.V6_FLAKY,
            facts(hours=some_missing(4), sibling=hours()),
            "failed in 4 of 24 hours in which IPv4 worked on the same host, 24 h",
            {"hours": 4, "of": 24},
        ),
        (
            HealthLabel.FAR_FROM_ALL,
            facts(hours=hours(nearest_rtt=0.182)),
            "the rtt of its 10 nearest servers is 182 ms, 24 h",
            {"rtt": 0.182, "hours": 24},
        ),
    ],
)
def test_reason_names_the_figures(
    label: HealthLabel, found: MonitorFacts, reason: str, figures: Mapping[str, float]
) -> None:
    finding = judge(found, ())[label]
    assert (finding.reason, finding.figures) == (reason, figures)


# ---- what raises nothing ---------------------------------------------------------------------------------------------


def test_new_monitor_is_not_stable_before_it_has_been_there_long_enough() -> None:
    new = facts(age=DAY - HOUR, days=(Attendance(23, 23), *(Attendance(0, 0),) * 6), month=Attendance(23, 23))
    assert judge(new, ()).keys() == {HealthLabel.CLOCK_GOOD}
    assert HealthLabel.STABLE_1D in judge(replace(new, age=DAY), ())
    month = facts(age=timedelta(days=30))
    assert HealthLabel.STABLE_30D in judge(month, ())
    assert HealthLabel.STABLE_30D not in judge(replace(month, age=timedelta(days=30) - HOUR), ())


def test_monitor_without_results_loses_what_was_measured() -> None:
    nothing = facts(hours={}, days=days(24), month=Attendance(696, 720))
    assert judge(nothing, tuple(HealthLabel)).keys() == set()


def test_long_absence_is_not_offline_often() -> None:
    assert HealthLabel.OFFLINE_OFTEN not in judge(facts(days=days(6, 24, 24, 24, 6)), ())


def test_one_bad_hour_makes_no_clock_wrong() -> None:
    good = hours() | {LATEST[0]: hour(clock_offset=60.0)}
    assert judge(facts(hours=good), [HealthLabel.CLOCK_GOOD]).keys() == GOOD


def test_clock_is_compared_at_ten_servers_at_least() -> None:
    assert HealthLabel.CLOCK_OFF in judge(facts(hours=hours(clock_offset=1.0, clock_servers=10)), ())
    assert HealthLabel.CLOCK_OFF not in judge(facts(hours=hours(clock_offset=1.0, clock_servers=9)), ())


def test_host_that_loses_both_protocols_is_not_flaky_in_one() -> None:
    both = judge(facts(hours=hours(lost=30), sibling=hours(lost=30)), ())
    assert HealthLabel.V6_FLAKY not in both and HealthLabel.LOSES_PACKETS in both
    assert HealthLabel.V6_FLAKY not in judge(facts(hours=some_missing(9), sibling=some_missing(9)), ())
    assert HealthLabel.V6_FLAKY not in judge(facts(ipv="v4", hours=some_missing(9), sibling=hours()), ())


def test_agent_that_says_why_it_does_not_probe_is_believed_unless_its_results_arrive() -> None:
    said = facts(hours=some_missing(1), not_probing="clock is 3 s off")
    assert judge(said, ())[HealthLabel.NOT_PROBING].reason == "its agent says: clock is 3 s off"
    held = [HealthLabel.NOT_PROBING]
    assert HealthLabel.NOT_PROBING not in judge(replace(said, hours=hours()), held)
    assert HealthLabel.NOT_PROBING not in judge(replace(said, not_probing=None), held)
    long = judge(replace(said, not_probing="x" * 1_000), ())
    assert len(long[HealthLabel.NOT_PROBING].reason) == MAX_REASON


# ---- always ----------------------------------------------------------------------------------------------------------


@st.composite
def any_facts(draw: st.DrawFn) -> MonitorFacts:
    """Generate the facts of any monitor, with values about the thresholds."""

    def an_hour() -> MonitorHour:
        judged = draw(st.sampled_from((0, 4, 5, 10, 13, 40, 100)))
        return hour(
            probes=judged + draw(st.sampled_from((0, 5))),
            judged=judged,
            lost=draw(st.integers(0, judged)),
            expected_lost=draw(st.sampled_from((0.0, 0.5))),
            clock_offset=draw(st.sampled_from((None, 0.0, -0.005, 0.007, 0.010, 0.012, -0.015, 0.02, 0.025, 1.0))),
            clock_servers=draw(st.sampled_from((9, 10, 100))),
            nearest_rtt=draw(st.sampled_from((None, 0.01, 0.119, 0.12, 0.13, 0.15))),
        )

    def a_day() -> dict[datetime, MonitorHour]:
        few = [an_hour() for _ in range(draw(st.integers(1, 4)))]
        return {start: few[index % len(few)] for index, start in enumerate(LATEST) if draw(st.integers(0, 5))}

    def attended(most: int) -> Attendance:
        counted = draw(st.sampled_from((0, most // 2, most * 3 // 4, most)))
        return Attendance(max(0, counted - draw(st.sampled_from((0, 0, 1, 2, 5, 8)))), counted)

    return facts(
        ipv=draw(st.sampled_from(("v4", "v6"))),
        age=draw(st.sampled_from((HOUR, DAY, timedelta(days=30)))),
        days=tuple(attended(24) for _ in range(7)),
        month=attended(720),
        hours=a_day(),
        sibling=draw(st.sampled_from(({}, hours(), hours(lost=6)))),
        not_probing=draw(st.sampled_from((None, "clock"))),
    )


HELD = st.sets(st.sampled_from(list(HealthLabel)))


@examples(150)
@given(any_facts(), HELD)
def test_constant_facts_never_make_a_label_flap(found: MonitorFacts, held: set[HealthLabel]) -> None:
    """Hysteresis: whatever labels a monitor had, those after the first judgement stay."""
    first = judge(found, held)
    assert judge(found, first.keys()) == first
    assert judge(found, ()).keys() <= judge(found, tuple(HealthLabel)).keys(), "what raises a label also keeps it"


@examples(150)
@given(any_facts(), HELD)
def test_labels_do_not_contradict_each_other(found: MonitorFacts, held: set[HealthLabel]) -> None:
    labels = judge(found, held).keys()
    assert not labels >= {HealthLabel.CLOCK_GOOD, HealthLabel.CLOCK_OFF}
    assert (HealthLabel.V6_FLAKY if found.ipv == "v4" else HealthLabel.V4_FLAKY) not in labels
    assert all(len(finding.reason) <= MAX_REASON for finding in judge(found, held).values())

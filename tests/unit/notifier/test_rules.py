"""Test when alerts are raised and cleared."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from notifier.model import Alert, Fact, Group, Key, Kind
from notifier.rules import KINDS, MONITOR_OFFLINE, SERVER_LOW, Evaluation, evaluate, step
from testbed.random_inputs import examples

NOW = datetime(2026, 1, 2, 12, 0, 0)
KIND = Kind("some", Group.SERVER, timedelta(minutes=10), timedelta(minutes=30))
KEY = Key(SERVER_LOW, "1")
MINUTE = timedelta(minutes=1)

Seen = tuple[timedelta, bool | None]


def told(seen: Sequence[Seen], kind: Kind = KIND) -> list[tuple[timedelta, bool]]:
    """Return what people are told: the time since the first fact, and whether it was raised."""
    alert, said = Alert(key=KEY), []
    for at, bad in seen:
        alert, changed = step(alert, bad, NOW + at, kind)
        if changed:
            said.append((at, alert.raised))
    return said


def every_minute(*runs: tuple[int, bool | None]) -> list[Seen]:
    """Return facts of each minute: runs of so many minutes."""
    facts = [bad for minutes, bad in runs for _ in range(minutes)]
    return [(MINUTE * n, bad) for n, bad in enumerate(facts)]


def minutes(said: Sequence[tuple[timedelta, bool]]) -> list[tuple[float, bool]]:
    return [(at / MINUTE, raised) for at, raised in said]


def test_trouble_is_raised_once_and_cleared_once() -> None:
    assert minutes(told(every_minute((60, True), (60, False)))) == [(10, True), (90, False)]


def test_short_trouble_is_not_raised() -> None:
    assert told(every_minute((60, False), (9, True), (60, False))) == []


def test_a_short_recovery_is_not_told() -> None:
    assert minutes(told(every_minute((20, True), (29, False), (20, True)))) == [(10, True)]


def test_trouble_that_comes_and_goes_is_raised_once() -> None:
    assert minutes(told(every_minute(*[(3, True), (2, False)] * 20, (60, False)))) == [(10, True), (128, False)]


def test_unknown_facts_change_nothing() -> None:
    assert told(every_minute((300, None))) == []
    assert minutes(told(every_minute((20, True), (300, None)))) == [(10, True)]
    assert minutes(told(every_minute((5, True), (30, None), (1, True)))) == [(35, True)]


def test_without_a_debounce_time_the_first_fact_counts() -> None:
    assert minutes(told(every_minute((1, True)), KINDS[MONITOR_OFFLINE])) == [(0, True)]


def test_a_clock_that_was_set_back_does_not_delay_an_alert() -> None:
    alert, _ = step(Alert(key=KEY), True, NOW + timedelta(days=1), KIND)
    alert, _ = step(alert, True, NOW, KIND)
    assert step(alert, True, NOW + KIND.raise_after, KIND)[1]


_SEEN = st.lists(
    st.tuples(st.integers(0, 40).map(lambda n: MINUTE * n), st.sampled_from([True, False, None])), max_size=60
).map(
    lambda steps: [(sum((pause for pause, _ in steps[: n + 1]), timedelta()), bad) for n, (_, bad) in enumerate(steps)]
)


@examples(300)
@given(_SEEN)
def test_raises_and_clears_alternate_and_begin_with_a_raise(seen: list[Seen]) -> None:
    said = [raised for _, raised in told(seen)]
    assert said == [n % 2 == 0 for n in range(len(said))]


@examples(300)
@given(_SEEN, st.booleans())
def test_facts_that_last_for_the_debounce_time_are_what_people_were_told(seen: list[Seen], bad: bool) -> None:
    begin = seen[-1][0] if seen else timedelta()
    wait = KIND.raise_after if bad else KIND.clear_after
    said = told([*seen, (begin, bad), (begin + wait, bad)])
    assert (said[-1][1] if said else False) is bad


@examples(300)
@given(_SEEN)
def test_nobody_is_told_of_what_is_not_so_now_and_was_not_so_a_debounce_time_ago(seen: list[Seen]) -> None:
    for at, raised in told(seen):
        wait = KIND.raise_after if raised else KIND.clear_after
        same = [moment for moment, bad in seen if moment <= at and bad is raised]
        assert at in same
        assert same[0] <= at - wait
        if not raised:
            assert [bad for moment, bad in seen if at - wait < moment < at and bad] == []


# ---- evaluations ---------------------------------------------------------------------------------------------------


def a_fact(bad: bool | None, subject: str = "1", **more: object) -> Fact:
    fields = {"key": Key(SERVER_LOW, subject), "name": f"server {subject}", "detail": "score 3.0", "account_id": 7}
    return Fact(bad=bad, **(fields | more))  # type: ignore[arg-type]


def after(found: Evaluation) -> dict[Key, Alert]:
    return {alert.key: alert for alert in found.kept}


def raised_alert() -> dict[Key, Alert]:
    first = after(evaluate({}, [a_fact(True)], NOW))
    return after(evaluate(first, [a_fact(True)], NOW + KINDS[SERVER_LOW].raise_after))


def test_a_change_names_the_subject_its_owner_and_the_start_of_the_trouble() -> None:
    first = after(evaluate({}, [a_fact(True)], NOW))
    later = NOW + timedelta(minutes=10)
    [change] = evaluate(first, [a_fact(True, link="https://pool.example/1")], later).changes
    assert (change.raised, change.since, change.changed_on) == (True, NOW, later)
    assert (change.name, change.detail, change.account_id) == ("server 1", "score 3.0", 7)
    assert change.link == "https://pool.example/1"


def test_a_known_start_of_the_trouble_is_told() -> None:
    since = NOW - timedelta(hours=3)
    fact = Fact(key=Key(MONITOR_OFFLINE, "m"), bad=True, name="m", detail="", since=since)
    assert evaluate({}, [fact], NOW).changes[0].since == since


def test_an_alert_that_is_cleared_has_no_row() -> None:
    alerts = raised_alert()
    found = evaluate(alerts, [a_fact(False)], NOW)
    alerts |= after(found)
    found = evaluate(alerts, [a_fact(False)], NOW + KINDS[SERVER_LOW].clear_after)
    assert (found.kept, found.removed) == ((), (KEY,))
    assert [(change.raised, change.gone) for change in found.changes] == [(False, False)]


def test_an_alert_about_something_that_is_no_longer_watched_ends_at_once() -> None:
    found = evaluate(raised_alert(), [], NOW)
    assert found.removed == (KEY,)
    assert [(change.raised, change.gone, change.name) for change in found.changes] == [(False, True, "server 1")]
    pending = after(evaluate({}, [a_fact(True)], NOW))
    assert evaluate(pending, [], NOW).changes == ()


def test_an_unknown_fact_keeps_an_alert() -> None:
    found = evaluate(raised_alert(), [a_fact(None)], NOW + timedelta(days=1))
    assert (found.removed, found.changes) == ((), ())


def test_nothing_is_written_for_good_facts_and_for_new_details() -> None:
    assert evaluate({}, [a_fact(False)], NOW).kept == ()
    assert evaluate(raised_alert(), [a_fact(True, detail="score 2.0")], NOW + timedelta(hours=1)).kept == ()


def test_only_the_subject_in_trouble_is_told() -> None:
    facts = [a_fact(True, "1"), a_fact(False, "2"), a_fact(None, "3")]
    alerts = after(evaluate({}, facts, NOW))
    assert [change.key for change in evaluate(alerts, facts, NOW + timedelta(hours=1)).changes] == [KEY]

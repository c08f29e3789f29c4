"""Test the words about a server: they agree with its score, and with what its monitors see."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.messages import Result
from scorer.formula import error_of, step
from scorer.policy import HANDED_OUT_ABOVE
from web.model import Entry, Monitor, Server, is_hidden
from web.verdict import check, judge, offset_words, shown_score, troubles, who_counts

NOW = datetime(2026, 11, 30, 12)
GOOD = Server(1, "192.0.2.7", "v4", None, True, 10_000, 20.0, NOW, datetime(2026, 1, 1), None)
TODAY = NOW.date()


def entry(monitor_id: int, minutes: int, step: float = 1.0, **more: object) -> Entry:
    """Return a result of some minutes ago."""
    made = Entry(1000 - minutes, monitor_id, NOW - timedelta(minutes=minutes), 20.0, step, 0.001, 20_000, None)
    return made._replace(**more)  # type: ignore[arg-type]  # fields of an entry


def scores(*values: float) -> list[Entry]:
    """Return scores of the last hours, the newest first."""
    return [entry(9, 60 * hours, score=value) for hours, value in enumerate(values)]


def monitor(number: int, status: str = "active", score: float = 20.0) -> Monitor:
    """Return a monitor with a result of now."""
    return Monitor(number, f"m{number}", "monitor", status, score, NOW)


@given(st.floats(-100, 20))
def test_the_shown_score_is_on_the_same_side_as_the_score(score: float) -> None:
    assert (float(shown_score(score)) > HANDED_OUT_ABOVE) == (score > HANDED_OUT_ABOVE)
    assert abs(float(shown_score(score)) - score) <= 0.1
    verdict = judge(replace(GOOD, score=score), [], 3, NOW)
    assert verdict.handed_out == (score > HANDED_OUT_ABOVE) == (not verdict.reasons)


def test_score_words() -> None:
    assert [shown_score(score) for score in (10.0, 10.001, 10.06, 9.96, -0.01, 20.0)] == [
        *("10.0", "10.1", "10.1", "10.0", "0.0", "20.0")
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"in_pool": False}, "It is not in the pool."),
        ({"netspeed": 0}, "It is monitored only, as its operator wishes."),
        ({"deletion_on": TODAY}, "It was removed from the pool on 2026-11-30."),
        ({"deletion_on": date(2026, 12, 1)}, "It is to be removed from the pool on 2026-12-01."),
        ({"score": 10.0}, "Its score is not higher than 10."),
        ({"score_ts": None}, "It has not been measured yet."),
    ],
)
def test_why_a_server_is_not_handed_out(change: dict[str, object], reason: str) -> None:
    verdict = judge(replace(GOOD, **change), [], 3, NOW)  # type: ignore[arg-type]  # fields of a server
    assert (verdict.handed_out, verdict.reasons) == (False, (reason,))
    assert verdict.sentence == "Clients are not sent to this server."


def test_a_server_without_monitors_and_an_old_score() -> None:
    assert judge(replace(GOOD, score_ts=None), [], 0, NOW).reasons == ("No monitor measures it yet.",)
    old = judge(replace(GOOD, score_ts=NOW - timedelta(hours=2)), [], 3, NOW)
    assert old.handed_out and "no newer results" in old.reasons[0]


def test_since_when() -> None:
    assert judge(GOOD, scores(20, 11, 10, 20), 3, NOW).since == NOW - timedelta(hours=1)
    assert judge(replace(GOOD, score=5), scores(5, 9, 10, 10.1), 3, NOW).since == NOW - timedelta(hours=2)
    longer = judge(GOOD, scores(20, 20), 3, NOW)
    assert (longer.since, longer.at_least) == (NOW - timedelta(hours=1), True)
    assert judge(GOOD, scores(5), 3, NOW).since is None, "the log and the server differ for a moment"
    assert judge(GOOD, [], 3, NOW).since is None


def test_troubles_in_words() -> None:
    lost = {"step": -5.0, "offset": None, "rtt": None}
    error = {"step": -4.0, "offset": None, "attributes": '{"error":"bad stratum 0"}'}
    entries = [
        *(entry(1, 0, **lost), entry(2, 0, **lost), entry(3, 0, -2.0, offset=-0.2), entry(4, 0), entry(5, 0, **error)),
        *(entry(1, 9, **lost), entry(2, 9), entry(3, 9, -2.0, offset=0.8), entry(4, 9, **lost)),
        *(entry(1, 18), entry(6, 70, **lost), entry(8, 0, **lost)),
    ]
    found = troubles(entries, [monitor(number) for number in range(1, 7)], "192.0.2.7")
    assert [(one.words, one.since) for one in found] == [
        ("2 of 5 monitors get no answer", NOW - timedelta(minutes=9)),
        ("1 of 5 monitors gets the error “bad stratum 0”", NOW),
        ("1 of 5 monitors sees its time off by up to 200.0 ms", NOW - timedelta(minutes=9)),
    ]
    assert troubles([], [monitor(1)], "192.0.2.7") == []


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"stratum": 9}, "1 of 1 monitors gets answers that no client would follow, such as those of stratum 8"),
        ({"offset": -3.5}, "1 of 1 monitors sees its time off by up to 3.50 s"),
        ({"offset": 0.8}, "1 of 1 monitors sees its time off by up to 0.80 s"),
        ({"offset": 0.5}, "1 of 1 monitors sees its time off by up to 500.0 ms"),
        ({"offset": None}, "1 of 1 monitors gets the error “an answer without a time”"),
        ({"offset": None, "no_response": True}, "1 of 1 monitors gets no answer"),
        ({"offset": None, "error": "network: unreachable"}, "1 of 1 monitors gets no answer"),
        ({"stratum": 0, "offset": None, "error": "DENY"}, "1 of 1 monitors gets the error “DENY”"),
    ],
)
def test_words_for_what_the_scorer_judges(result: dict[str, Any], words: str) -> None:
    judged = Result(**{"server_id": 1, "ip": "192.0.2.7", "ts": NOW.replace(tzinfo=UTC), "offset": 0.0} | result)
    attributes = json.dumps({"error": error_of(judged)})
    stored = entry(1, 0, step(judged).step, offset=judged.offset, attributes=attributes)
    assert [one.words for one in troubles([stored], [monitor(1)], "192.0.2.7")] == [words]


def test_offset_words() -> None:
    assert [offset_words(seconds) for seconds in (0.000267, -0.025, 0.75, -3.5)] == [
        *("0.267 ms", "-25.0 ms", "0.75 s", "-3.50 s")
    ]


def test_who_counts() -> None:
    scorer = Monitor(9, "recentmedian", "score", "active", 20.0, NOW)
    both = [monitor(1, "testing"), monitor(2, "candidate"), scorer]
    assert who_counts([*both, monitor(3)]) == [monitor(3)]
    assert who_counts(both) == [monitor(1, "testing")]
    assert who_counts([scorer]) == []


@pytest.mark.parametrize(
    ("score", "monitors", "needed", "state"),
    [
        (5.0, [5.0, 5.0, 20.0], 2, "bad"),
        (5.0, [5.0, 20.0, 20.0], 2, "ok"),
        (5.0, [5.0], 2, "bad"),
        (5.0, [20.0], 2, "ok"),
        (5.0, [], 2, "ok"),
        (10.0, [10.0, 10.0], 2, "bad"),
        (20.0, [-50.0, -50.0, 20.0], 2, "ok"),
        (5.0, [5.0, 20.0], 1, "bad"),
    ],
)
def test_check(score: float, monitors: list[float], needed: int, state: str) -> None:
    measuring = [monitor(number, score=value) for number, value in enumerate(monitors)]
    assert check(replace(GOOD, score=score), measuring, 10.0, needed, NOW).state == state


def test_nothing_known_is_no_alarm() -> None:
    bad = [monitor(1, score=-50.0), monitor(2, score=-50.0)]
    for ts in (None, NOW - timedelta(hours=2)):
        assert check(replace(GOOD, score=-50.0, score_ts=ts), bad, 10.0, 2, NOW).state == "unknown"
    stale = [replace(one, ts=NOW - timedelta(hours=2)) for one in bad]
    assert check(replace(GOOD, score=-50.0), stale, 10.0, 2, NOW).state == "ok"


def test_deleted_servers_are_shown_for_a_month() -> None:
    assert not is_hidden(None, TODAY) and not is_hidden(TODAY - timedelta(days=30), TODAY)
    assert is_hidden(TODAY - timedelta(days=31), TODAY)

"""Test whether silence is attributed to servers or the network: which results count."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network import SilenceJudge, Verdict
from agent.ntp.measurement import Sample
from agent.ntp.packet import Reply
from agent.ntp.timestamps import Timestamp
from schema.messages import Result

REPLY = Reply(0, 4, 2, 0.0, 0.0, b"\xc0\x00\x02\x01", b"", Timestamp(1), Timestamp(1))


def result(server_id: int = 1) -> Result:
    return Result(server_id=server_id, ip="192.0.2.1", ts=datetime(2026, 1, 1, tzinfo=UTC))


def silent(*sent_at: int) -> list[Sample]:
    return [Sample(sent_at=at) for at in sent_at]


S = 1_000_000_000


def judge(silence: SilenceJudge, samples: list[Sample], number: int = 1, ended: int | None = None) -> Verdict:
    return silence.judge(result(number), samples, samples[-1].sent_at if ended is None else ended)


def answered(sent_at: int) -> list[Sample]:
    return [Sample(sent_at=sent_at, reply=REPLY)]


def test_answer_is_accepted_and_proves_that_the_network_works() -> None:
    silence = SilenceJudge()
    assert judge(silence, answered(100)) == Verdict.TRUE
    assert judge(silence, silent(90, 110)) == Verdict.TRUE, "asked before, so the network worked meanwhile"
    assert judge(silence, silent(101)) == Verdict.OPEN, "nothing that was asked since has been answered"


@pytest.mark.parametrize(
    ("asked", "answered_at", "verdict"),
    [
        ((10 * S, 13 * S, 16 * S), 10 * S - 1, Verdict.OPEN),
        ((10 * S, 13 * S, 16 * S), 10 * S, Verdict.TRUE),
        ((10 * S, 13 * S, 16 * S), 16 * S, Verdict.TRUE),
        ((10 * S, 13 * S, 16 * S), 16 * S + 1, Verdict.OPEN),
        ((10 * S,), 13 * S, Verdict.TRUE),
        ((10 * S,), 13 * S + 1, Verdict.OPEN),
    ],
)
def test_silence_counts_at_once_only_if_the_network_worked_meanwhile(
    asked: tuple[int, ...], answered_at: int, verdict: Verdict
) -> None:
    silence = SilenceJudge()
    judge(silence, answered(answered_at))
    assert judge(silence, silent(*asked), ended=20 * S) == verdict


def test_series_counts_as_answered_if_only_its_last_sample_was() -> None:
    silence = SilenceJudge()
    series = [*silent(100, 200), *answered(300)]
    assert judge(silence, series) == Verdict.TRUE
    assert judge(silence, silent(300)) == Verdict.TRUE
    assert judge(silence, silent(301)) == Verdict.OPEN


def test_network_error_is_treated_as_silence() -> None:
    refused = [Sample(sent_at=100, network_error="connection refused")]
    assert judge(SilenceJudge(), refused) == Verdict.OPEN


def test_answered_check_releases_results_of_earlier_probes() -> None:
    silence = SilenceJudge()
    for number, at in enumerate((100, 200, 300)):
        assert judge(silence, silent(at), number) == Verdict.OPEN
    free, dropped = silence.checked(200)
    assert ([r.server_id for r in free], dropped, len(silence)) == ([0, 1], 0, 1)
    free, dropped = silence.checked(400)
    assert ([r.server_id for r in free], dropped, len(silence)) == ([2], 0, 0)


def test_answered_check_drops_results_older_than_five_seconds() -> None:
    silence = SilenceJudge()
    for number, ended in enumerate((10 * S, 11 * S, 12 * S)):
        judge(silence, silent(9 * S), number, ended)
    free, dropped = silence.checked(16 * S)
    assert ([r.server_id for r in free], dropped, len(silence)) == ([1, 2], 1, 0)


def test_unanswered_check_drops_silent_results_until_a_server_answers() -> None:
    silence = SilenceJudge()
    judge(silence, silent(100))
    assert silence.checked(None) == ([], 1)
    assert judge(silence, silent(150)) == Verdict.FALSE
    assert judge(silence, answered(200)) == Verdict.TRUE
    assert judge(silence, silent(250)) == Verdict.OPEN
    silence.checked(None)
    assert silence.checked(300) == ([], 0)
    assert judge(silence, silent(350)) == Verdict.OPEN


def test_clock_step_forgets_answers_and_held_results() -> None:
    silence = SilenceJudge()
    judge(silence, answered(10**18))
    judge(silence, silent(10**18 + 1))
    assert silence.start_over() == 1
    assert judge(silence, silent(100)) == Verdict.OPEN, "what was heard later by the former clock is void"
    silence.checked(None)
    silence.start_over()
    assert judge(silence, silent(100)) == Verdict.OPEN


def test_number_of_held_results_is_bounded() -> None:
    silence = SilenceJudge()
    dropped = 0
    for number in range(1_000):
        judge(silence, silent(100 + number), number)
        dropped += silence.trim()
    assert (dropped, len(silence)) == (500, 500)
    free, _ = silence.checked(10_000)
    assert [r.server_id for r in free] == list(range(500, 1_000)), "the oldest went"


EVENTS = st.lists(st.tuples(st.sampled_from(["silent", "answered", "good check", "bad check"]), st.integers(1, 9)))


@given(EVENTS)
def test_each_result_is_accepted_after_an_answer_or_dropped_exactly_once(
    events: list[tuple[str, int]],
) -> None:
    silence, now, heard = SilenceJudge(), 0, 0
    open_at: dict[int, int] = {}
    for number, (kind, took) in enumerate(events):
        began, now = now + 1, now + 1 + took
        if kind == "silent":
            verdict = judge(silence, silent(began), number)
            assert verdict != Verdict.TRUE or heard >= began
            if verdict == Verdict.OPEN:
                open_at[number] = began
        elif kind == "answered":
            assert judge(silence, answered(began), number) == Verdict.TRUE
            heard = began
        elif kind == "good check":
            free, dropped = silence.checked(began)
            assert dropped == 0
            heard = began
            for one in free:
                assert open_at.pop(one.server_id) <= heard
        else:
            assert silence.checked(None) == ([], len(open_at))
            open_at.clear()
        assert len(silence) == len(open_at)

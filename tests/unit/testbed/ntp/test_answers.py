"""Test that a client's result from a simulated server's reply equals the spec, to the nanosecond."""

import statistics
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.ntp.answers import Reply, answer
from testbed.ntp.packets import Request
from testbed.ntp.spec import Behaviour, ServerSpec

NS = 1_000_000_000
ARRIVAL = 1_800_000_000 * NS + 123_456_789
COOKIE = 0xFEDC_BA98_7654_3210
REQUEST = Request(version=4, poll=9, transmit=COOKIE)
GOOD = ServerSpec(address="127.0.0.1")


def replies(seed: int = 1, arrival_ns: int = ARRIVAL, **fields: Any) -> tuple[Reply, ...]:
    return answer(msgspec.structs.replace(GOOD, **fields), REQUEST, arrival_ns, Random(seed))


def the_reply(**fields: Any) -> Reply:
    (reply,) = replies(**fields)
    return reply


def field(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 8], "big")


def measured(reply: Reply, late_ns: int = 0) -> tuple[float, float]:
    """Return offset and round-trip time in seconds as a client at no distance computes them (RFC 5905, section 8)."""
    sent = reply.due_ns + late_ns
    data = reply.datagram(sent)
    receive, transmit = field(data, 32), field(data, 40)
    t1, t4 = (2_208_988_800 * NS + ns for ns in (ARRIVAL, sent))
    t2, t3 = (stamp * NS + 2**31 >> 32 for stamp in (receive, transmit))
    return ((t2 - t1) + (t3 - t4)) / 2 / NS, ((t4 - t1) - (t3 - t2)) / NS


@given(
    offset=st.floats(-5, 5),
    delay=st.floats(0, 0.2),
    asymmetry=st.floats(0, 0.2),
    late_ns=st.integers(0, 50_000_000),
)
def test_measured_offset_and_delay_match_the_spec_however_late_the_reply(
    offset: float, delay: float, asymmetry: float, late_ns: int
) -> None:
    reply = the_reply(offset=offset, delay=delay, asymmetry=asymmetry)
    got_offset, got_delay = measured(reply, late_ns)
    assert got_offset == pytest.approx(offset + asymmetry / 2, abs=3e-9)
    assert got_delay == pytest.approx(2 * delay + asymmetry, abs=3e-9)


def test_a_silent_server_never_answers() -> None:
    assert replies(behaviour=Behaviour.SILENT) == ()
    assert replies(behaviour=Behaviour.SILENT, then_answer=True) == ()


@pytest.mark.parametrize("hold", [2.0, -2.0])
def test_server_may_report_a_wrong_processing_time(hold: float) -> None:
    assert measured(the_reply(hold=hold, delay=0.1, offset=0.5)) == pytest.approx((0.5 + hold / 2, 0.2 - hold))


def test_reply_is_due_after_the_simulated_network_delay() -> None:
    assert the_reply(delay=0.01, asymmetry=0.002).due_ns == ARRIVAL + 22_000_000


def test_transmit_timestamp_is_never_before_the_receive_timestamp() -> None:
    for seed in range(200):
        data = replies(seed, delay=0.001, jitter=0.001)[0]
        packet = data.datagram(data.due_ns)
        assert field(packet, 40) >= field(packet, 32)


def test_jitter_scatters_around_the_true_offset() -> None:
    samples = [measured(replies(seed, offset=0.1, delay=0.01, jitter=0.001)[0])[0] for seed in range(2000)]
    assert statistics.fmean(samples) == pytest.approx(0.1, abs=0.00005)
    assert statistics.stdev(samples) == pytest.approx(0.00043, rel=0.1)


def test_reply_contains_the_values_of_the_spec() -> None:
    data = the_reply(stratum=1, leap=2, reference_id="GPS", root_delay=0.5, root_dispersion=0.25).datagram(ARRIVAL)
    assert data[0] == 2 << 6 | 4 << 3 | 4
    assert (data[1], data[2], data[3]) == (1, 9, 256 - 23)
    assert data[4:16] == b"\0\0\x80\0\0\0\x40\0GPS\0"
    assert field(data, 16) < field(data, 32)
    assert field(data, 24) == COOKIE
    assert len(data) == 48


def test_a_lossy_server_answers_its_share() -> None:
    answered = sum(bool(replies(seed, loss=0.2)) for seed in range(2000))
    assert answered == pytest.approx(1600, abs=80)


@pytest.mark.parametrize("fields", [{"loss": 1.0}, {"behaviour": Behaviour.SILENT}, {"loss": 1.0, "then_answer": True}])
def test_silent_or_fully_lossy_server_never_answers(fields: dict[str, Any]) -> None:
    assert replies(**fields) == ()


def test_a_kiss_is_a_valid_answer_at_stratum_0_with_its_code() -> None:
    data = the_reply(kiss="RATE").datagram(ARRIVAL)
    assert (data[0] >> 6, data[0] & 7, data[1], data[12:16]) == (3, 4, 0, b"RATE")
    assert field(data, 24) == COOKIE


def test_kiss_is_sent_in_its_share_of_the_answers() -> None:
    kisses = sum(replies(seed, kiss="DENY", kiss_share=1 / 3)[0].head[1] == 0 for seed in range(1500))
    assert kisses == pytest.approx(500, abs=60)


@pytest.mark.parametrize("then_answer", [False, True])
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour.SHORT,
        Behaviour.WRONG_MODE,
        Behaviour.WRONG_ORIGIN,
        Behaviour.WRONG_SOURCE,
        Behaviour.ZERO_TRANSMIT,
        Behaviour.FORGED_KISS,
    ],
)
def test_wrong_answer_has_only_its_fault_and_may_precede_the_right_one(behaviour: Behaviour, then_answer: bool) -> None:
    proper = the_reply()
    wrong, *rest = replies(behaviour=behaviour, then_answer=then_answer)
    assert rest == ([proper] if then_answer else [])
    good, bad = proper.datagram(ARRIVAL), wrong.datagram(ARRIVAL)
    differing = {index for index in range(len(bad)) if good[index] != bad[index]}
    expected: dict[Behaviour, set[int]] = {
        Behaviour.SHORT: set(),
        Behaviour.WRONG_MODE: {0},
        Behaviour.WRONG_ORIGIN: {28},
        Behaviour.WRONG_SOURCE: set(),
        Behaviour.FORGED_KISS: {0, 1, 12, 13, 14, 15, 28},
    }
    if behaviour is Behaviour.ZERO_TRANSMIT:
        assert bad == good[:40] + bytes(8)
    else:
        assert differing == expected[behaviour]
    assert len(bad) == (44 if behaviour is Behaviour.SHORT else 48)
    assert wrong.other_port == (behaviour is Behaviour.WRONG_SOURCE)


def test_a_duplicate_is_the_proper_answer_twice() -> None:
    assert replies(behaviour=Behaviour.DUPLICATE) == (the_reply(), the_reply())


def test_same_seed_gives_the_same_answers() -> None:
    fields: dict[str, Any] = {"loss": 0.5, "jitter": 0.001}
    assert [replies(seed, **fields) for seed in range(20)] == [replies(seed, **fields) for seed in range(20)]


def test_timestamps_are_correct_across_the_end_of_an_era() -> None:
    arrival = (2**32 - 2_208_988_800) * NS - 5_000_000
    (reply,) = replies(arrival_ns=arrival, delay=0.01)
    data = reply.datagram(reply.due_ns)
    assert (field(data, 40) - field(data, 32)) % 2**64 < 2**32
    assert field(data, 32) < 2**40

"""Test which sample of a series counts, what is reported about it, and when a series ends."""

import math

import pytest

from agent.ntp.measurement import Measurement, Sample, best, to_result
from agent.ntp.packet import Reply
from agent.ntp.probe import Ask, series
from agent.ntp.timestamps import Timestamp

AT = 1_700_000_000_000_000_000


def reply(stratum: int = 2, reference: bytes = b"\xc0\x00\x02\x01") -> Reply:
    return Reply(0, 4, stratum, 0.5, 0.25, reference, b"", Timestamp(1), Timestamp(1))


def good(rtt: float, offset: float = 0.001) -> Sample:
    return Sample(sent_at=AT, reply=reply(), measurement=Measurement(offset, rtt))


def kiss(code: bytes, rtt: float = 0.001) -> Sample:
    return Sample(sent_at=AT, reply=reply(0, code), measurement=Measurement(7.0, rtt))


SILENT = Sample(sent_at=AT)
REFUSED = Sample(sent_at=AT, network_error="connection refused")
NO_TIME = Sample(sent_at=AT, reply=reply())
FAST, SLOW = good(0.01), good(0.02)
UNSENT = Sample(sent_at=AT, network_error="network unreachable", ours=True)
IMPOSSIBLE = Sample(sent_at=AT, reply=reply(), measurement=Measurement(5.0, 0.0, consistent=False))
BAD_BUT_FAST = Sample(sent_at=AT, reply=reply(16), measurement=Measurement(0.0, 0.0001))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([SLOW, FAST], FAST),
        ([FAST, SLOW], FAST),
        ([BAD_BUT_FAST, SLOW], SLOW),
        ([SILENT, BAD_BUT_FAST], BAD_BUT_FAST),
        ([NO_TIME, SLOW], SLOW),
        ([SILENT, REFUSED], REFUSED),
        ([SILENT, NO_TIME], NO_TIME),
        ([SLOW, kiss(b"RATE")], SLOW),
        ([SILENT, SILENT], SILENT),
        ([UNSENT, REFUSED], REFUSED),
        ([SILENT, UNSENT], UNSENT),
        ([UNSENT, BAD_BUT_FAST], BAD_BUT_FAST),
        ([IMPOSSIBLE, SLOW], SLOW),
        ([SLOW, IMPOSSIBLE, FAST], FAST),
        ([IMPOSSIBLE, BAD_BUT_FAST], IMPOSSIBLE),
        ([NO_TIME, IMPOSSIBLE], IMPOSSIBLE),
        ([SILENT, IMPOSSIBLE], IMPOSSIBLE),
    ],
)
def test_best_sample_of_a_series_is_chosen(samples: list[Sample], expected: Sample) -> None:
    assert best(samples) is expected


def test_good_result_has_all_values() -> None:
    result = to_result(5, "192.0.2.7", [SLOW, FAST, SILENT])
    assert (result.server_id, result.ip, result.ts.timestamp()) == (5, "192.0.2.7", 1_700_000_000)
    assert (result.offset, result.rtt, result.stratum, result.leap) == (0.001, 0.01, 2, 0)
    assert (result.error, result.no_response, result.sent, result.received) == (None, False, 3, 2)
    assert (result.root_delay, result.root_dispersion, result.reference_id) == (0.5, 0.25, "192.0.2.1")


def test_unsent_samples_are_not_counted_as_sent() -> None:
    result = to_result(5, "192.0.2.7", [FAST, UNSENT, SILENT])
    assert (result.offset, result.sent, result.received) == (0.001, 2, 1)


def test_silence_is_no_response_and_no_error() -> None:
    result = to_result(5, "192.0.2.7", [SILENT])
    assert (result.no_response, result.error, result.offset, result.stratum) == (True, None, None, None)


def test_a_network_error_counts_as_no_response() -> None:
    result = to_result(5, "192.0.2.7", [REFUSED])
    assert (result.no_response, result.error) == (True, "network: connection refused")


def test_rate_limited_result_has_no_offset_but_keeps_the_rest() -> None:
    result = to_result(5, "192.0.2.7", [kiss(b"RATE")])
    assert (result.error, result.offset, result.rtt, result.stratum) == ("RATE", None, 0.001, 0)


def test_bad_reply_keeps_its_offset() -> None:
    result = to_result(5, "192.0.2.7", [kiss(b"DENY")])
    assert (result.error, result.offset, result.no_response) == ("DENY", 7.0, False)


class Clock:
    """Simulated time, which advances during sleeps and exchanges only."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def ask(self, samples: list[Sample], takes: float) -> Ask:
        answers = iter(samples)

        async def exchange() -> Sample:
            self.asked.append(self.now)
            self.now += takes
            return next(answers)

        return exchange


@pytest.mark.parametrize("takes", [0.0, 0.5, 3.0])
async def test_samples_are_two_seconds_apart_unless_an_exchange_takes_longer(takes: float) -> None:
    clock = Clock()
    taken = await series(clock.ask([FAST, SILENT, SLOW], takes), 3, sleep=clock.sleep, clock=lambda: clock.now)
    assert taken == [FAST, SILENT, SLOW]
    gaps = [b - a for a, b in zip(clock.asked, clock.asked[1:], strict=False)]
    assert gaps == [pytest.approx(max(2.0, takes))] * 2


@pytest.mark.parametrize("code", [b"RATE", b"DENY", b"RSTR", b"NTSN"])
async def test_a_kiss_of_death_ends_the_series(code: bytes) -> None:
    clock = Clock()
    answers = [FAST, kiss(code), SLOW]
    taken = await series(clock.ask(answers, 0.1), 3, sleep=clock.sleep, clock=lambda: clock.now)
    assert taken == answers[:2]


async def test_series_of_one_sample_does_not_wait() -> None:
    clock = Clock()
    await series(clock.ask([FAST], 0.1), 1, sleep=clock.sleep, clock=lambda: clock.now)
    assert math.isclose(clock.now, 100.1)

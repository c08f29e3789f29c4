"""Test the verdict on the agent's clock, steps of the clock, and an agent with a duplicate name."""

import asyncio
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from agent.clock import check as check_module
from agent.clock import step as step_module
from agent.clock.check import base_checks
from agent.clock.monitor import LocalClock
from agent.clock.step import ClockWatch
from agent.clock.verdict import ClockVerdict, allowed_failures, failure, judge_clock
from agent.metrics import AgentCounters
from agent.ntp.measurement import Sample
from agent.ntp.probe import Source
from agent.ntp.resolver import Resolver
from agent.ntp.targets import TargetRules
from agent.reconnect import FIGHT, STABLE, TAKEOVER_WAITS, Reconnect
from runtime.mqtt.types import SESSION_TAKEN_OVER, Lost
from schema.messages import Result
from schema.names import IpVersion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def answer(offset: float | None = 0.001, **fields: Any) -> Result:
    return Result(server_id=0, ip="192.0.2.1", ts=NOW, offset=offset, **{"leap": 0, "stratum": 2, **fields})


GOOD = answer()
BAD = {
    "ahead": answer(0.0101),
    "behind": answer(-0.0101),
    "leap 3": answer(leap=3, error="not synchronised"),
    "no answer": answer(None, no_response=True),
    "network": answer(None, no_response=True, error="network: connection refused"),
    "stratum": answer(error="bad stratum 16"),
    "no offset": answer(None),
}


def verdict(*results: Result, refused: tuple[str, ...] = ()) -> bool:
    return judge_clock([(f"s{i}", result) for i, result in enumerate(results)], refused).good


@pytest.mark.parametrize(("servers", "failures"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)])
def test_a_minority_may_fail(servers: int, failures: int) -> None:
    assert allowed_failures(servers) == failures
    bad = BAD["ahead"]
    assert verdict(*[bad] * failures, *[GOOD] * (servers - failures))
    assert not verdict(*[bad] * (failures + 1), *[GOOD] * (servers - failures - 1))


@pytest.mark.parametrize("kind", BAD)
def test_every_kind_of_bad_answer_fails_the_check(kind: str) -> None:
    assert not verdict(BAD[kind])
    assert verdict(GOOD)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("behind", "offset -10.100 ms"),
        ("leap 3", "not synchronised"),
        ("no answer", "no answer"),
        ("network", "network: connection refused"),
        ("stratum", "bad stratum 16"),
        ("no offset", "no offset"),
    ],
)
def test_failure_reason_describes_the_bad_answer(kind: str, reason: str) -> None:
    assert failure(BAD[kind]) == reason


@pytest.mark.parametrize("offset", [0.0, 0.0099, -0.0099, 0.010])
def test_offsets_up_to_ten_milliseconds_are_allowed(offset: float) -> None:
    assert verdict(answer(offset))


def test_without_base_checks_the_clock_is_not_good() -> None:
    assert judge_clock([]).reason == "local clock not checked: no base-check servers configured"


def test_refused_base_check_entry_counts_as_a_failure() -> None:
    assert verdict(GOOD, GOOD, refused=("x",))
    assert not verdict(GOOD, refused=("x",))


def test_the_reason_names_hosts_and_offsets() -> None:
    said = judge_clock(
        [("192.0.2.1", BAD["ahead"]), ("192.0.2.2", BAD["leap 3"])], ("'x' is not an IP address",)
    ).reason
    assert said == (
        "local clock check failed at 3 of 3: 'x' is not an IP address; 192.0.2.1 offset +10.100 ms; "
        "192.0.2.2 not synchronised"
    )


@pytest.mark.parametrize(
    ("offsets", "median"), [((0.001,), 0.001), ((-0.2, 0.001, 0.3), 0.001), ((0.004, -0.001), -0.001), ((), None)]
)
def test_the_clocks_offset_is_the_median_of_proper_answers(offsets: tuple[float, ...], median: float | None) -> None:
    improper = [BAD["leap 3"], BAD["no answer"], BAD["stratum"]]
    said = judge_clock([(str(number), one) for number, one in enumerate([*map(answer, offsets), *improper])])
    assert said.offset == median


async def check_with(
    monkeypatch: pytest.MonkeyPatch, ipv: IpVersion, *answers: Sample
) -> tuple[ClockVerdict, int, int]:
    """Check the clock with one server for each answer; return the verdict, and the checks that were counted."""
    waiting, counters, said = iter(answers), AgentCounters(), asyncio.Queue[ClockVerdict]()

    async def probe(*_: object) -> list[Sample]:
        return [next(waiting)]

    monkeypatch.setattr(check_module, "probe", probe)
    entries = [f"2001:db8::{number}" if ipv == "v6" else f"192.0.2.{number}" for number in range(1, len(answers) + 1)]
    rules = TargetRules("devel", allow_private=True)
    clock = LocalClock(counters, Resolver(), time.monotonic, lambda: None, lambda verdict, *_: said.put_nowait(verdict))
    clock.use(base_checks(entries, 1, rules, ipv), Source(None))
    running = asyncio.create_task(clock.run())
    verdict = await said.get()
    running.cancel()
    return verdict, counters.clock_checks, counters.clock_checks_failed


UNSENT = Sample(sent_at=0, network_error="Network is unreachable", ours=True)


async def test_a_host_without_the_protocol_has_no_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, checks, failed = await check_with(monkeypatch, "v6", UNSENT, UNSENT)
    assert verdict == ClockVerdict(False, "this host cannot send by IPv6: Network is unreachable", asked=False)
    assert (checks, failed) == (0, 0), "there is no statement about the clock"


async def test_silent_servers_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, checks, failed = await check_with(monkeypatch, "v4", UNSENT, Sample(sent_at=0))
    assert verdict.asked and verdict.reason.startswith("local clock check failed at 2 of 2")
    assert (checks, failed) == (1, 1)


class Clocks:
    def __init__(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 50.0

    def read(self) -> tuple[float, float]:
        return self.wall, self.monotonic

    def run(self, seconds: float, slew: float = 0.0) -> None:
        self.monotonic += seconds
        self.wall += seconds + slew


@pytest.mark.parametrize("step", [0.051, -0.051, 3600.0, -86400.0])
def test_clock_step_is_reported_once_with_its_size(step: float) -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks.read)
    clocks.run(10)
    assert watch.step() is None
    clocks.run(1, slew=step)
    assert watch.step() == pytest.approx(step, abs=1e-6)
    assert watch.wall_ahead == pytest.approx(clocks.wall - clocks.monotonic)
    assert watch.step() is None


def test_clocks_are_taken_from_the_least_interrupted_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.5, 0.002, 0.3, 0.4, 0.2])
    monotonic = iter([at for n in range(5) for at in (n * 1.0, n * 1.0 + next(took))])
    wall = iter([1000.0, 1001.0, 1002.0, 1003.0, 1004.0])
    fake = SimpleNamespace(monotonic=lambda: next(monotonic), time=lambda: next(wall))
    monkeypatch.setattr(step_module, "time", fake)
    assert step_module.read_clocks() == (1001.0, pytest.approx(1.001))


def test_small_differences_are_no_step_until_they_add_up() -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks.read)
    for _ in range(4):
        clocks.run(1, slew=0.012)
        assert watch.step() is None
    clocks.run(1, slew=0.012)
    assert watch.step() == pytest.approx(0.06, abs=1e-6)


def reconnect() -> Reconnect:
    return Reconnect(spread=lambda low, high: 1.0)


def taken_over(lasted: float = 100.0) -> Lost:
    return Lost("session taken over", SESSION_TAKEN_OVER, lasted)


def silently(lasted: float) -> Lost:
    return Lost("the broker closed the connection", None, lasted)


def test_back_off_grows_with_each_takeover() -> None:
    policy = reconnect()
    assert [policy.back_off(taken_over(), 0) for _ in range(6)] == [120, 300, 600, 900, 900, 900]
    assert TAKEOVER_WAITS == (120, 300, 600, 900)


def test_agent_is_kept_away_from_a_takeover_until_it_reconnects() -> None:
    policy = reconnect()
    assert not policy.kept_away
    policy.back_off(taken_over(), 0)
    assert policy.kept_away
    policy.back_off(Lost("refused", None, 0.0), 1)
    assert policy.kept_away, "the broker being away says nothing about the other agent"
    policy.connected()
    assert not policy.kept_away


def test_stable_connection_resets_the_back_off() -> None:
    policy = reconnect()
    policy.back_off(taken_over(), 0)
    policy.back_off(taken_over(), 0)
    policy.back_off(silently(STABLE), 0)
    assert policy.back_off(taken_over(STABLE - 1), 0) == 120


def test_repeated_short_connections_are_recognised_as_a_takeover() -> None:
    policy = reconnect()
    waits = [policy.back_off(silently(2.0), n) for n in range(1, FIGHT + 1)]
    assert waits[-1] == 120 and max(waits[:-1]) <= 10
    policy.connected()
    assert policy.back_off(silently(2.0), 1) == 300


def test_short_connection_after_a_takeover_counts_as_another() -> None:
    policy = reconnect()
    policy.back_off(taken_over(), 0)
    policy.connected()
    assert policy.back_off(silently(2.0), 1) == 300


@pytest.mark.parametrize(
    "between",
    [
        Lost("refused", None, 0.0),
        silently(61.0),
        Lost("keep alive timeout", 141, 5.0),
        Lost("shutting down", 0x8B, 5.0),
    ],
)
def test_broker_restart_or_bad_network_is_not_a_takeover(between: Lost) -> None:
    policy = reconnect()
    for _ in range(10):
        for lost in (silently(2.0), silently(2.0), between):
            assert policy.back_off(lost, 1) <= 10
    assert not policy.kept_away


def test_back_off_after_ordinary_losses_is_2_s_then_10_s_with_jitter() -> None:
    assert reconnect().back_off(silently(500.0), 0) == 2
    assert reconnect().back_off(Lost("refused", None, 0.0), 2) == 10
    waits = {Reconnect().back_off(Lost("refused", None, 0.0), 5) for _ in range(100)}
    assert len(waits) > 50 and min(waits) >= 5 and max(waits) <= 15

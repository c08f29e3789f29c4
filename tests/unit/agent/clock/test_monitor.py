"""Test when the clock is checked, and how long a check is valid."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent import prober, schedule
from agent.clock import check as check_module
from agent.clock import monitor as clock_monitor
from agent.clock import verdict as verdict_module
from agent.clock.check import BaseChecks, Checked
from agent.clock.monitor import LocalClock
from agent.clock.verdict import ClockVerdict
from agent.metrics import AgentCounters
from agent.ntp import probe as probe_module
from agent.ntp.probe import Source
from agent.ntp.resolver import Resolver
from agent.ntp.targets import TargetRules
from testbed.waiting import wait_until

CHECKS = BaseChecks("v4", TargetRules("devel", allow_private=True))
HOME = Source(None)


class Bench:
    """A clock with simulated checks and simulated time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.good = True
        self.takes = 0.0
        self.said: list[tuple[ClockVerdict, float, int | None]] = []
        self.began: list[float] = []
        self.waited: list[float | None] = []
        self.clock = LocalClock(AgentCounters(), Resolver(), lambda: self.now, lambda: None, self._on_verdict)
        monkeypatch.setattr(clock_monitor, "check_clock", self._check)
        self._wait = asyncio.wait
        monkeypatch.setattr(clock_monitor.asyncio, "wait", self._note_wait)

    async def _check(self, *_: object) -> Checked:
        self.began.append(self.now)
        self.now += self.takes
        return Checked(ClockVerdict(self.good, "as told"), [], (), 5)

    async def _note_wait(self, tasks: Any, *, timeout: float | None = None, **options: Any) -> Any:
        self.waited.append(timeout)
        return await self._wait(tasks, timeout=timeout, **options)

    def _on_verdict(self, verdict: ClockVerdict, began: float, heard: int | None) -> None:
        self.said.append((verdict, began, heard))

    async def until(self, condition: Callable[[], object]) -> None:
        await wait_until(condition, lambda: f"{self.began}, {self.waited}", within=10)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.clock.run())
        try:
            yield
        finally:
            task.cancel()
            await self._wait({task})


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_good_check_is_valid_for_180_seconds_and_renewed_after_150(bench: Bench) -> None:
    bench.takes = 7.0
    bench.clock.use(CHECKS, HOME)
    assert bench.clock.why_not == "local clock is being checked"
    async with bench.running():
        await bench.until(lambda: 150.0 in bench.waited)
        assert bench.clock.why_not is None
        assert bench.clock.last_good == 1000.0, "what came in while the servers were asked is not known to be right"
        assert bench.said == [(ClockVerdict(True, "as told"), 1000.0, 5)]
        bench.now = 1007.0 + 180.0
        assert bench.clock.why_not is None
        bench.now += 0.1
        assert bench.clock.why_not == "local clock is being checked again"


async def test_failed_check_is_repeated_after_60_seconds(bench: Bench) -> None:
    bench.good = False
    bench.clock.use(CHECKS, HOME)
    async with bench.running():
        await bench.until(lambda: 60.0 in bench.waited)
        assert bench.clock.why_not == "as told"
        assert bench.clock.last_good == 0.0


async def test_silence_triggers_a_check_30_seconds_after_the_last_one_began(bench: Bench) -> None:
    bench.clock.use(CHECKS, HOME)
    async with bench.running():
        await bench.until(lambda: 150.0 in bench.waited)
        bench.now += 20.0
        bench.clock.check_soon()
        await bench.until(lambda: 10.0 in bench.waited)
        assert (len(bench.began), bench.clock.why_not) == (1, None), "what is known counts until then"
        bench.clock.recheck()
        await bench.until(lambda: len(bench.began) == 2)


async def test_silence_after_more_than_30_seconds_triggers_one_check_at_once(bench: Bench) -> None:
    bench.clock.use(CHECKS, HOME)
    async with bench.running():
        await bench.until(lambda: 150.0 in bench.waited)
        bench.now += 31.0
        bench.clock.check_soon()
        await bench.until(lambda: len(bench.began) == 2)
        await bench.until(lambda: bench.waited[-1] == 150.0)
        assert len(bench.began) == 2, "once"


def test_constants_have_the_documented_values() -> None:
    assert (verdict_module.VALID_FOR, verdict_module.RENEW_AFTER, verdict_module.RETRY_AFTER) == (180, 150, 60)
    assert (verdict_module.ASKED_NOT_BEFORE, verdict_module.MAX_OFFSET) == (30, 0.010)
    assert (probe_module.TIMEOUT, prober.MAX_PROBES, check_module.MAX_BASE_CHECKS, schedule.JITTER) == (3, 64, 16, 0.05)


def test_at_most_sixteen_base_check_servers_are_used() -> None:
    made = check_module.base_checks([f"192.0.2.{n}" for n in range(1, 100)], 1, CHECKS.rules, "v4")
    assert len(made.servers) == 16

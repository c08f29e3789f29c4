"""Test when a protocol probes, and the effect of a step of the wall clock."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import network as network_module
from agent import prober
from agent.assignments import AssignmentRefused
from agent.clock import check as check_module
from agent.clock.step import ClockWatch
from agent.delivery.batcher import Batcher
from agent.delivery.spool import Spool
from agent.metrics import AgentCounters
from agent.ntp.measurement import Measurement, Sample, to_result
from agent.ntp.packet import Reply
from agent.ntp.probe import Source
from agent.ntp.resolver import Resolver
from agent.ntp.targets import Target, TargetRules
from agent.ntp.timestamps import Timestamp
from agent.prober import Prober, ProberContext
from schema.messages import Assignment, ProtocolConfig, Result
from testbed.waiting import wait_until

REPLY = Reply(0, 4, 2, 0.0, 0.0, b"\xc0\x00\x02\x01", b"", Timestamp(1), Timestamp(1))
BASE = "127.0.0.200"


class Network:
    """Answers probes at once, or as soon as ``open`` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.offset = 0.0
        self.running = self.most = 0
        self.silent = False
        self.open = asyncio.Event()
        self.open.set()

    async def probe(self, target: Target, source: Source, samples: int, timeout: float = 3.0) -> list[Sample]:
        base = target.ip == BASE
        if not base:
            self.asked.append(target.ip)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.open.wait()
            finally:
                self.running -= 1
        if self.silent:
            return [Sample(sent_at=time.time_ns())]
        offset = self.offset if base else 0.001
        return [Sample(sent_at=time.time_ns(), reply=REPLY, measurement=Measurement(offset, 0.01))]


class Bench:
    def __init__(self, path: Path) -> None:
        self.step = 0.0
        self.forbidden: str | None = None
        self.changes = 0
        self.counters = AgentCounters()
        self.watch = ClockWatch(lambda: (time.monotonic() + 1.7e9 + self.step, time.monotonic()))
        self.spool = Spool(path / "spool", max_bytes=10**6, max_age=3600)
        self.batcher = Batcher(self.spool, "1", self.counters, lambda: None)
        self.prober = Prober("v4", self.situation(), self.batcher, enabled=True)

    def situation(self) -> ProberContext:
        return ProberContext(
            name="a.devel.mon.example",
            rules=TargetRules("devel", allow_private=True),
            slots=asyncio.Semaphore(4),
            watch=self.watch,
            counters=self.counters,
            resolver=Resolver(),
            clock=time.monotonic,
            why_not=lambda: self.forbidden,
            check_for_clock_step=self.check_for_clock_step,
            on_change=self.changed,
        )

    def changed(self) -> None:
        self.changes += 1

    def check_for_clock_step(self) -> None:
        if self.watch.step() is not None:
            self.counters.clock_steps += 1
            self.counters.probes_discarded += self.prober.discard_untrusted()

    def configure(self, **fields: Any) -> None:
        self.prober.configure(ProtocolConfig(**{"status": "active", "samples": 1, "base_checks": [BASE], **fields}))

    def assign(self, *server_ids: int, interval: float = 1.0) -> None:
        for server_id in server_ids:
            ip = f"127.0.1.{server_id}"
            self.prober.assign(server_id, Assignment(server_id=server_id, ip=ip, status="active", interval=interval))

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:
        await wait_until(condition, lambda: str(self.prober.why_not), within=timeout)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(prober, "probe", made.probe)
    monkeypatch.setattr(check_module, "probe", made.probe)
    return made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow intervals so short that two of them pass within a tenth of a second."""
    monkeypatch.setattr("agent.assignments.MIN_INTERVAL", 0.01)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.prober.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def why(bench: Bench) -> str:
    return bench.prober.why_not or ""


async def test_reason_for_not_probing_is_always_known(bench: Bench, network: Network) -> None:
    assert why(bench) == "not configured by the pool"
    assert bench.prober.state() is None
    bench.configure(status="paused")
    assert why(bench) == "status is paused"
    async with running(bench):
        bench.configure(base_checks=[])
        await bench.until(lambda: "no base-check servers" in why(bench))
        network.offset = 0.5
        bench.configure()
        await bench.until(lambda: "offset +500.000 ms" in why(bench))
        network.offset = 0.0
        bench.prober.clock.recheck()
        await bench.until(lambda: why(bench) == "")
        bench.forbidden = "paused by an operator"
        assert why(bench) == "paused by an operator"
        state = bench.prober.state()
        assert state is not None and not state.probing and state.why_not == "paused by an operator"


async def test_disabled_protocol_never_probes(tmp_path: Path, network: Network) -> None:
    bench = Bench(tmp_path)
    bench.prober = Prober("v4", bench.situation(), bench.batcher, enabled=False)
    bench.configure()
    bench.assign(1)
    async with running(bench):
        await asyncio.sleep(0.05)
    assert (why(bench), network.asked) == ("IPv4 is disabled on this host", [])


@pytest.mark.usefixtures("short_intervals")
async def test_assigned_servers_are_probed_only_while_the_status_allows_it(bench: Bench, network: Network) -> None:
    bench.configure()
    bench.assign(1, 2, interval=0.05)
    async with running(bench):
        await bench.until(lambda: {"127.0.1.1", "127.0.1.2"} <= set(network.asked))
        bench.prober.assign(1, None)
        bench.configure(status="pending")
        await bench.until(lambda: network.running == 0)
        before = len(network.asked)
        await asyncio.sleep(0.1)  # only waiting can show that nothing is probed for two intervals
        assert len(network.asked) == before
        bench.configure()
        await bench.until(lambda: len(network.asked) > before)
        assert set(network.asked[before:]) == {"127.0.1.2"}
    assert bench.prober.last_results[0].offset == 0.001


@pytest.mark.usefixtures("short_intervals")
async def test_number_of_concurrent_probes_is_limited(bench: Bench, network: Network) -> None:
    bench.configure()
    bench.assign(*range(1, 21), interval=0.05)
    network.open.clear()
    async with running(bench):
        await bench.until(lambda: network.running == 4)
        await asyncio.sleep(0.1)
        assert network.most == 4
        network.open.set()
        await bench.until(lambda: len(set(network.asked)) == 20)


@pytest.mark.usefixtures("short_intervals")
async def test_probes_of_one_server_never_overlap(bench: Bench, network: Network) -> None:
    bench.configure()
    bench.assign(1, interval=0.04)
    network.open.clear()
    async with running(bench):
        await bench.until(lambda: network.running == 1)
        await asyncio.sleep(0.1)
        assert len(network.asked) == 1


async def test_refused_assignment_removes_the_previous_one(bench: Bench, network: Network) -> None:
    bench.assign(1)
    with pytest.raises(AssignmentRefused):
        bench.prober.assign(1, Assignment(server_id=1, ip="0.0.0.0", status="active", interval=1.0))
    assert len(bench.prober.assignments) == 0


async def test_clock_step_discards_probes_and_results_and_triggers_a_check(bench: Bench, network: Network) -> None:
    bench.configure()
    bench.assign(1, 2)
    network.open.clear()
    async with running(bench):
        await bench.until(lambda: network.running == 2)
        checks = bench.counters.clock_checks
        bench.batcher.add(to_result(99, "127.0.1.99", [Sample(sent_at=time.time_ns())]), time.monotonic())
        bench.step = 0.2
        bench.check_for_clock_step()
        await bench.until(lambda: network.running == 0)
        assert bench.counters.probes_discarded == 3
        network.open.set()
        await bench.until(lambda: bench.counters.clock_checks > checks and not why(bench))
        asked = len(network.asked)
        await bench.until(lambda: len(network.asked) > asked)
    await bench.batcher.flush()
    for number in bench.spool:
        batch = bench.spool.read(number)
        assert batch is not None and b'"server_id":99' not in batch.payload


async def test_probe_that_ended_just_before_step_detection_is_discarded_once(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = bench.prober._accept

    def take_and_step(result: Result) -> None:
        take(result)
        bench.step = 0.2

    monkeypatch.setattr(bench.prober, "_accept", take_and_step)
    bench.configure()
    bench.assign(1, 2)
    network.open.clear()
    async with running(bench):
        await bench.until(lambda: network.running == 2)
        probes = bench.counters.probes
        network.open.set()  # both end in one iteration of the event loop: the second detects the step
        await bench.until(lambda: bench.counters.clock_steps == 1)
        assert (probes, bench.counters.probes_discarded) == (2, 2)


async def test_probe_that_has_not_begun_is_not_counted_as_discarded(bench: Bench, network: Network) -> None:
    bench.configure()
    bench.assign(1)
    task = asyncio.create_task(bench.prober.probe(1))
    bench.prober._probes.add(task)
    assert bench.prober.discard_untrusted() == 0
    await asyncio.wait({task})
    assert (bench.counters.probes, bench.counters.probes_discarded) == (0, 0)


async def test_probe_that_is_cut_off_by_the_end_is_counted_as_discarded(bench: Bench, network: Network) -> None:
    network.open.clear()
    bench.configure()
    bench.assign(1, 2)
    async with running(bench):
        await bench.until(lambda: network.running == 2)
    assert bench.counters.probes_discarded == bench.counters.probes == 2


async def test_probe_that_fails_by_a_mistake_of_ours_is_counted_as_discarded(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*arguments: object) -> list[Sample]:
        raise ZeroDivisionError

    monkeypatch.setattr(prober, "probe", fails)
    bench.configure()
    bench.assign(1)
    await bench.prober._probe_safely(1)
    assert bench.counters.probes_discarded == bench.counters.probes == 1


async def test_probe_that_detects_a_clock_step_at_its_end_is_discarded(bench: Bench, network: Network) -> None:
    bench.configure()
    bench.assign(1)
    network.open.clear()
    async with running(bench):
        await bench.until(lambda: network.running == 1)
        bench.step = -0.2
        network.open.set()
        await bench.until(lambda: bench.counters.clock_steps == 1)
        await bench.until(lambda: not network.running)
        assert bench.counters.probes_discarded == 1
        assert list(bench.prober.last_results) == []


async def test_clock_check_does_not_count_if_the_clock_was_set_meanwhile(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = False

    async def probe(*arguments: Any) -> list[Sample]:
        nonlocal stepped
        if not stepped:
            stepped, bench.step = True, 5.0
        return await network.probe(*arguments)

    vouched: list[int] = []
    monkeypatch.setattr(check_module, "probe", probe)
    monkeypatch.setattr(bench.batcher, "vouch", lambda until: vouched.append(bench.counters.clock_checks))
    bench.configure()
    async with running(bench):
        await bench.until(lambda: not why(bench))
    assert (bench.counters.clock_checks, bench.counters.clock_steps) == (2, 1)
    assert vouched == [2], "the first check says nothing, although it found the clock good"


async def test_failure_on_this_host_yields_no_result_and_is_logged(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def probe(*arguments: Any) -> list[Sample]:
        return [Sample(sent_at=time.time_ns(), network_error="too many open files", ours=True)]

    monkeypatch.setattr(prober, "probe", probe)
    bench.configure()
    bench.assign(1)
    async with running(bench):
        await bench.until(lambda: bench.counters.probes_discarded >= 1)
    assert list(bench.prober.last_results) == []
    assert "probes fail on this host: network: too many open files" in caplog.text


async def test_exception_in_one_probe_does_not_stop_the_others(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def probe(target: Target, *arguments: Any) -> list[Sample]:
        if target.ip == "127.0.1.1":
            raise RuntimeError("a mistake of ours")
        return await network.probe(target, *arguments)

    monkeypatch.setattr(prober, "probe", probe)
    bench.configure()
    bench.assign(1, 2)
    async with running(bench):
        await bench.until(lambda: network.asked.count("127.0.1.2") >= 2)
        await bench.until(lambda: "probe of server 1 failed" in caplog.text)


async def silent_result(bench: Bench, network: Network) -> None:
    """Wait until a result is held for a clock check."""
    bench.configure()
    await bench.until(lambda: not why(bench))
    network.silent = True
    bench.assign(1)
    await bench.until(lambda: len(bench.prober._silence))


async def test_clock_step_discards_held_results(bench: Bench, network: Network) -> None:
    async with running(bench):
        await silent_result(bench, network)
        bench.step, waiting = 0.2, len(bench.prober._silence)
        bench.check_for_clock_step()
        assert len(bench.prober._silence) == 0
        assert bench.counters.probes_discarded == waiting
        await asyncio.wait_for(bench.prober.decide(), 1)


async def test_results_still_held_at_the_end_are_counted_as_discarded(bench: Bench, network: Network) -> None:
    async with running(bench):
        await silent_result(bench, network)
        waiting = len(bench.prober._silence)
    assert bench.counters.results_unproven == bench.counters.probes_discarded == waiting
    assert list(bench.prober.last_results) == []


async def test_held_results_beyond_the_maximum_are_dropped_and_counted(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(bench):
        await silent_result(bench, network)
        monkeypatch.setattr(network_module, "MAX_HELD", 3)
        bench.assign(*range(1, 7), interval=1.0)
        await bench.until(lambda: bench.counters.results_unproven >= 2)
        assert len(bench.prober._silence) == 3
        assert bench.counters.probes_discarded == bench.counters.results_unproven


async def test_unsent_probes_trigger_a_clock_check_and_are_logged_once(
    bench: Bench, network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = True

    async def probe(*arguments: Any) -> list[Sample]:
        if failing:
            return [Sample(sent_at=time.time_ns(), network_error="network unreachable", ours=True)]
        return await network.probe(*arguments)

    monkeypatch.setattr(prober, "probe", probe)
    asked: list[bool] = []
    monkeypatch.setattr(bench.prober.clock, "check_soon", lambda: asked.append(True))
    bench.configure()
    bench.assign(1, 2)
    warning = "probes fail on this host: network: network unreachable"
    async with running(bench):
        await bench.until(lambda: bench.counters.probes_unsent >= 3)
        assert caplog.text.count(warning) == 1
        assert len(asked) == bench.counters.probes_unsent == bench.counters.probes_discarded
        failing = False
        await bench.until(lambda: len(bench.prober.last_results) >= 2)
        failing = True
        await bench.until(lambda: caplog.text.count(warning) == 2)

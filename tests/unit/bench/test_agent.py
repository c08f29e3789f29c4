"""Test the benchmarks of the agent: their computations, and when they refuse to measure."""

import importlib.metadata
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench import agent_accuracy, agent_environment, agent_memory, agent_stage
from schema.messages import Result
from testbed.broker import BrokerUnavailable
from testbed.stack import CannotRun

OFFSETS = {number: number / 1000 for number in range(1, 301)}


def result(server_id: int, offset: float | None) -> Result:
    return Result(server_id=server_id, ip="127.30.0.1", ts=datetime.now(UTC), offset=offset, no_response=offset is None)


def test_error_is_the_absolute_deviation_from_the_servers_offset() -> None:
    measured = [result(n, offset + (10e-6 if n % 2 else -30e-6)) for n, offset in OFFSETS.items()]
    found = agent_accuracy._errors(measured, OFFSETS, {})
    assert found.percentile(50) == pytest.approx(10)
    assert found.percentile(99) == pytest.approx(30)
    assert found.unanswered == 0


def test_a_probe_without_an_offset_counts_as_unanswered() -> None:
    measured = [result(n, None if n <= 7 else offset) for n, offset in OFFSETS.items()]
    found = agent_accuracy._errors(measured, OFFSETS, {})
    assert (found.unanswered, len(found.errors)) == (7, 293)


def test_too_few_results_are_refused() -> None:
    with pytest.raises(CannotRun, match="only 100 of 300 probes were answered"):
        agent_accuracy._errors([result(n, None if n > 100 else 0.0) for n in OFFSETS], OFFSETS, {})


def test_memory_of_the_process_is_read_in_megabytes() -> None:
    memory = agent_memory.read_memory(os.getpid())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert memory.rss == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, rel=0.05)
    assert 0 < memory.private_dirty <= memory.rss
    assert 0 < memory.pss <= memory.rss <= memory.peak


def test_environment_with_other_versions_is_refused() -> None:
    version = importlib.metadata.version("msgspec")
    with pytest.raises(CannotRun, match=f"msgspec {version} is installed, not msgspec==0.1: run scripts/bootstrap"):
        agent_environment._installed(Requirement("msgspec==0.1"))
    with pytest.raises(CannotRun, match="no-such-package==1 is not installed: run scripts/bootstrap"):
        agent_environment._installed(Requirement("no-such-package==1"))


def test_without_a_broker_nothing_is_measured_and_the_reason_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_here() -> None:
        raise BrokerUnavailable("mosquitto is not installed: run scripts/bootstrap")

    async def measure() -> int:
        async with agent_stage.agent_stage():
            return 0

    monkeypatch.setattr("testbed.broker.find_parts", none_here)
    monkeypatch.setattr("bench.agent_stage.end_by_unwinding", lambda: None)
    assert agent_stage.run(measure) == 2
    assert capsys.readouterr().err == "bench: mosquitto is not installed: run scripts/bootstrap\n"


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("agent_memory", ["--minutes", "0"], "--minutes: must be more than 0"),
        ("agent_memory", ["--assignments", "0"], "--assignments: must be 1 to 5000"),
        ("agent_accuracy", ["--rate", "0"], "--rate: must be 1 to 500"),
        ("agent_accuracy", ["--seconds", "1"], "--seconds: gives fewer than the 200 probes"),
        ("agent_accuracy", ["--runs", "0"], "--runs: must be 1 or more"),
    ],
)
def test_a_wrong_argument_is_named(
    program: str, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [program, *arguments])
    with pytest.raises(SystemExit) as end:
        {"agent_memory": agent_memory.main, "agent_accuracy": agent_accuracy.main}[program]()
    assert end.value.code == 2
    assert says in capsys.readouterr().err

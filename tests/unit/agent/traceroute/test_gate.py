"""Test the limits of traceroutes, which hold whoever asks, and which hosts offer them."""

import os
from pathlib import Path

import pytest

from agent.traceroute import gate as gate_module
from agent.traceroute.gate import MAX_PER_HOUR, SPACING, Busy, Gate, find_program


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gate_module, "_MORE_DIRECTORIES", ())
    return tmp_path


def install(directory: Path, name: str = "traceroute", mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_one_traceroute_runs_at_a_time(gate: Gate, clock: Clock) -> None:
    with gate.one():
        clock.now += 2 * SPACING
        with pytest.raises(Busy, match=r"^another traceroute is running$"), gate.one():
            pass
    with gate.one():
        pass


def test_ten_seconds_lie_between_two(gate: Gate, clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), gate.one():
        raise ZeroDivisionError
    clock.now += 9.9
    with pytest.raises(Busy, match=r"less than 10 seconds ago$"), gate.one():
        pass
    clock.now += 0.1
    with gate.one():
        pass


def test_sixty_run_within_an_hour(gate: Gate, clock: Clock) -> None:
    for _ in range(60):
        with gate.one():
            clock.now += SPACING
    assert MAX_PER_HOUR == 60
    with pytest.raises(Busy, match=r"^more than 60 traceroutes in an hour$"), gate.one():
        pass
    clock.now += 3600 - 60 * SPACING - 1
    with pytest.raises(Busy), gate.one():
        pass
    clock.now += 1
    with gate.one():
        pass
    with pytest.raises(Busy), gate.one():
        pass


def test_traceroute_is_offered_with_an_executable_program(gate: Gate, directory: Path) -> None:
    assert not gate.able()
    (directory / "traceroute").mkdir()
    assert not gate.able()
    (directory / "traceroute").rmdir()
    path = install(directory, mode=0o644)
    assert not gate.able()
    path.chmod(0o755)
    assert gate.able() and find_program("traceroute") == str(path)


def test_programs_are_not_taken_from_the_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(directory)
    monkeypatch.chdir(directory)
    for path in ("", ".", ":", "bin:."):
        monkeypatch.setenv("PATH", path)
        assert find_program("traceroute") is None


def test_a_useless_program_is_not_offered_until_it_is_replaced(gate: Gate, directory: Path) -> None:
    path = install(directory)
    gate.useless()
    assert not gate.able()
    replaced = install(directory, "new")
    later = path.stat().st_mtime_ns + 10**9
    os.utime(replaced, ns=(later, later))
    replaced.rename(path)
    assert gate.able()
    path.unlink()
    gate.useless()
    assert not gate.able()

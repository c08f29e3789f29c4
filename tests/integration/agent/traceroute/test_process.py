"""Test that a program is bounded in time and output, and that nothing of it is left behind."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.traceroute.process import MAX_OUTPUT, Output, run
from testbed.waiting import PATIENCE, wait_until

LONG = 10 * PATIENCE


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


async def shell(script: str, within: float = LONG) -> Output:
    return await run("/bin/sh", ["-c", script], within)


async def test_a_program_gets_nothing_but_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_SECRET", "x")
    output = await shell("env | sort; pwd; cat; ls /proc/self/fd | tr '\\n' ' '; echo $$ >&2; exit 3")
    lines = output.out.splitlines()
    assert set(lines[:-2]) <= {"LC_ALL=C", f"PATH={os.defpath}", "PWD=/", "OLDPWD=/", "SHLVL=0", "_=/usr/bin/env"}
    assert lines[-2] == "/" and lines[-1].split()[:3] == ["0", "1", "2"] and len(lines[-1].split()) == 4
    assert output.ended and not output.too_much
    assert os.getpgrp() != int(output.error)


async def test_arguments_are_no_shell_words() -> None:
    output = await run("/bin/echo", ["$(id)", "a;b", "-n"], LONG)
    assert output.out == "$(id) a;b -n\n"


async def test_a_program_that_lasts_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    script = f"trap '' TERM; sleep {LONG} & echo $! $$ >{told}; echo begun; wait"
    output = await shell(script, within=0.5)
    assert output == Output("begun\n", "", ended=False, too_much=False)
    child, parent = pids(told)
    await wait_until(lambda: not is_alive(child) and not is_alive(parent), "their end")


async def test_children_that_outlive_the_program_are_killed(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    output = await shell(f"sleep {LONG} >/dev/null 2>&1 & echo $! >{told}")
    assert output.ended
    [child] = pids(told)
    await wait_until(lambda: not is_alive(child), "its end")


@pytest.mark.parametrize("stream", ["1", "2"])
async def test_a_program_that_writes_too_much_is_killed_at_once(stream: str) -> None:
    async with asyncio.timeout(PATIENCE):
        output = await shell(f"yes >&{stream}")
    assert output.too_much and not output.ended
    assert len(output.out) + len(output.error) == MAX_OUTPUT


async def test_bytes_that_are_no_text_are_replaced() -> None:
    assert (await shell("printf '\\377\\0x'")).out == "\ufffd\0x"


async def test_a_cancelled_run_leaves_no_process(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    task = asyncio.create_task(shell(f"echo $$ >{told}; exec sleep {LONG}"))
    await wait_until(lambda: pids(told) != [], "its start")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [pid] = pids(told)
    await wait_until(lambda: not is_alive(pid), "its end")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_text("no program"),
        lambda path: (path.write_text("#!/nowhere/interpreter\n"), path.chmod(0o755)),
    ],
)
async def test_a_program_that_cannot_start_is_an_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "program")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        await run(str(tmp_path / "program"), [], LONG)
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_no_descriptor_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    for script in ("true", "yes", f"kill -{signal.SIGKILL:d} $$"):
        await shell(script)
    assert len(os.listdir("/proc/self/fd")) == len(before)

"""Test the stack: it waits for the right condition, no longer than allowed, and ignores dead processes and old logs."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from testbed.process import Command
from testbed.stack import CannotRun, Stack
from testbed.waiting import PATIENCE


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(cast(Any, SimpleNamespace(database=URL.create("sqlite"), logs=tmp_path))) as made:
        yield made


def program(directory: Path, text: str) -> Command:
    """Return a process that executes ``text``, and then waits for a signal."""
    argv = [sys.executable, "-c", f"import signal, sys\n{text}\nsignal.pause()"]
    return Command("it", argv, {}, directory / "it.log", directory)


async def test_start_returns_when_the_log_has_the_expected_line(stack: Stack, tmp_path: Path) -> None:
    await stack.start_process(program(tmp_path, "print('a\\nready', flush=True)"), "ready\n")
    assert stack.supervisor.running == ["it"]
    await stack.__aexit__()
    assert stack.supervisor.running == []


async def test_log_lines_of_an_earlier_process_do_not_count(stack: Stack, tmp_path: Path) -> None:
    command = program(tmp_path, "")
    command.log.write_text("ready\n")
    stack.start_within_seconds = 0.3
    with pytest.raises(CannotRun, match=f"^start of it did not happen within 0.3 s; see {tmp_path}$"):
        await stack.start_process(command, "ready\n")


async def test_dead_process_is_not_waited_for(stack: Stack, tmp_path: Path) -> None:
    stack.start_within_seconds = 10 * PATIENCE
    command = program(tmp_path, "sys.exit('no settings')")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(CannotRun, match="it ended with exit code 1") as caught:
            await stack.start_process(command, "ready\n")
    assert "no settings" in str(caught.value)


async def test_until_accepts_synchronous_and_asynchronous_conditions(stack: Stack) -> None:
    left = [False, False, True]

    async def slow() -> bool:
        return left.pop(0)

    async with asyncio.timeout(PATIENCE):
        await stack.until(slow, "the end", every=0.0)
        await stack.until(lambda: not left, "the end")


async def test_connect_waits_for_the_session_which_ends_with_the_stack(stack: Stack) -> None:
    states: list[str] = []

    class Session:
        connected = False

        async def run(self) -> None:
            self.connected = True
            try:
                await asyncio.Event().wait()
            finally:
                states.append("ended")

    session = Session()
    async with asyncio.timeout(PATIENCE):
        await stack.connect(cast(Any, session))
    assert session.connected and states == []
    await stack.__aexit__()
    assert states == ["ended"]


async def test_read_returns_a_value_from_the_ledger(stack: Stack) -> None:
    assert await stack.read(lambda connection: connection.scalar(sa.text("SELECT 7"))) == 7

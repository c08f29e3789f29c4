"""Test the demo's supervisor and directory: processes are ended, and unexpected deaths reported."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from testbed.demo.directory import demo_directory
from testbed.process import Command, Process, last_lines
from testbed.stack import CannotRun
from testbed.supervisor import Supervisor
from testbed.waiting import PATIENCE, wait_until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
CHILD = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, 'ready', flush=True); time.sleep(60)"


def command(tmp_path: Path, program: str, name: str = "it") -> Command:
    argv = [sys.executable, "-c", program]
    return Command(name, argv, {"PATH": os.environ["PATH"]}, tmp_path / f"{name}.log", tmp_path)


async def until_ready(log: Path) -> str:
    await wait_until(lambda: "ready" in log.read_text())
    return log.read_text()


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_process_that_ignores_sigterm_is_killed_and_named(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(command(tmp_path, DEAF))
        await until_ready(tmp_path / "it.log")
        assert await supervisor.stop(["it"], within=0.2) == ["it"]
        assert supervisor.running == [] and supervisor.deaths == []


async def test_children_of_a_process_end_with_it(tmp_path: Path) -> None:
    process = Process(command(tmp_path, CHILD))
    await process.start()
    grandchild = int((await until_ready(tmp_path / "it.log")).split()[0])
    assert exists(grandchild)
    await process.kill()
    await wait_until(lambda: not exists(grandchild))


async def test_death_is_reported_with_its_cause_and_the_end_of_the_log(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(command(tmp_path, "print('first'); raise SystemExit('I had enough')"))
        async with asyncio.timeout(PATIENCE):
            await supervisor.died.wait()
        (death,) = supervisor.deaths
        assert (death.name, death.how) == ("it", "ended with exit code 1")
        assert sorted(death.last_lines.splitlines()) == ["I had enough", "first"]
        assert str(tmp_path / "it.log") in str(death)


async def test_deliberate_end_is_not_a_death_and_allows_a_restart(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(command(tmp_path, "import time; time.sleep(60)"))
        first = supervisor.pid("it")
        await supervisor.kill("it")
        await supervisor.restart("it")
        assert supervisor.pid("it") not in (None, first)
        assert await supervisor.stop(["it"]) == []
    assert supervisor.deaths == []


async def test_all_processes_end_with_the_context_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Supervisor() as supervisor:
            for name in ("one", "two"):
                await supervisor.start(command(tmp_path, "import time; time.sleep(60)", name))
            pids = [supervisor.pid("one"), supervisor.pid("two")]
            raise ZeroDivisionError
    assert not any(exists(pid) for pid in pids if pid is not None)


async def test_kill_all_is_not_a_death(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(command(tmp_path, "import time; time.sleep(60)"))
        supervisor.kill_all()
        await wait_until(lambda: not supervisor.running)
        await asyncio.sleep(0)  # let the task that watches the process notice its end
    assert supervisor.deaths == []
    assert not supervisor.died.is_set()


def test_demo_directory_is_private_to_its_owner(tmp_path: Path) -> None:
    with demo_directory(tmp_path / "d") as directory:
        assert directory.stat().st_mode & 0o777 == 0o700


def test_last_lines_of_a_missing_or_empty_log_are_not_an_error(tmp_path: Path) -> None:
    assert "No such file" in last_lines(tmp_path / "none")
    (tmp_path / "empty").touch()
    assert last_lines(tmp_path / "empty") == "(empty)"


def test_demo_removes_the_files_of_an_earlier_one(tmp_path: Path) -> None:
    with demo_directory(tmp_path / "d") as directory:
        (directory / "logs").mkdir()
        (directory / "logs" / "x.log").write_text("old")
        (directory / "ledger.db").write_text("old")
    with demo_directory(tmp_path / "d") as directory:
        assert [path.name for path in directory.iterdir()] == ["ntppool-demo"]


def test_two_demos_cannot_share_a_directory(tmp_path: Path) -> None:
    with (
        demo_directory(tmp_path / "d"),
        pytest.raises(CannotRun, match=f"another demo \\(process {os.getpid()}\\)"),
        demo_directory(tmp_path / "d"),
    ):
        pass


@pytest.mark.parametrize("name", ["file", "x" * 100])
def test_unusable_directory_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotRun, match=f"--dir {tmp_path / name}: "), demo_directory(tmp_path / name):
        pass

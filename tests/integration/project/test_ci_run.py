"""Test continuous integration: the exit code shows whether all steps passed, and no step outlives the run."""

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STEPS = ("bootstrap", "check", "test", "fresh")


def a_checkout(folder: Path, **bodies: str) -> Path:
    """Create a checkout with the real ``.ci/run`` and fake scripts that run ``bodies``; return the program to run.

    The scripts append "NAME ARGUMENTS" to ``ran`` in ``folder``.
    """
    (folder / ".ci").mkdir()
    (folder / "scripts").mkdir()
    for name in STEPS:
        script = folder / "scripts" / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >>ran\n{bodies.get(name, "")}\n')
        script.chmod(0o755)
    return Path(shutil.copy(ROOT / ".ci/run", folder / ".ci/run"))


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a run whose temporary files are in ``folder``, so that a test finds remains."""
    (folder / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(folder / "tmp")}


def test_run_exits_with_0_if_all_steps_pass(tmp_path: Path) -> None:
    run = subprocess.run([a_checkout(tmp_path)], env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran[:4] == ["bootstrap --fresh", "bootstrap --repo", "check", "test"]
    assert sorted(ran[4:]) == ["fresh bookworm", "fresh trixie"]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("failing", STEPS)
def test_failed_step_makes_the_run_exit_with_1_after_all_steps(failing: str, tmp_path: Path) -> None:
    program = a_checkout(tmp_path, **{failing: f"echo the words of {failing}; exit 3"})
    run = subprocess.run([program], env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert f"the words of {failing}" in run.stdout
    assert {line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()} == set(STEPS)


def test_terminated_run_ends_the_systems_that_it_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    program = a_checkout(tmp_path, fresh="echo $$ >begun; exec sleep 100")
    run = subprocess.Popen([program], env=environment(tmp_path), stdout=subprocess.DEVNULL)
    # Also open for writing, so that it does not end between the first writer and the second.
    with (tmp_path / "begun").open("r+b", buffering=0) as begun:
        said = b""
        while said.count(b"\n") < 2:
            said += begun.read(100)
    systems = [int(line) for line in said.splitlines()]
    ends = [os.pidfd_open(system) for system in systems]
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 143
    for end in ends:
        with os.fdopen(end):
            readable, _, _ = select.select([end], [], [], 60)
            assert readable, "the process has ended"
    assert not list((tmp_path / "tmp").iterdir())

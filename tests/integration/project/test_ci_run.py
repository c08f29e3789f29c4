"""Test continuous integration: the exit code tells whether all steps passed, and no step outlives the run."""

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
    """A folder with the real `.ci/run`, and scripts that only note their arguments and then run `bodies`.

    Returns: the program to run. The scripts append "NAME ARGUMENTS" to `ran` in `folder`.
    """
    (folder / ".ci").mkdir()
    (folder / "scripts").mkdir()
    for name in STEPS:
        script = folder / "scripts" / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >>ran\n{bodies.get(name, "")}\n')
        script.chmod(0o755)
    return Path(shutil.copy(ROOT / ".ci/run", folder / ".ci/run"))


def environment(folder: Path) -> dict[str, str]:
    """What the run gets: its temporary files are in `folder`, where a test can see whether they are left over."""
    (folder / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(folder / "tmp")}


def test_a_run_whose_steps_all_pass_ends_with_0(tmp_path: Path) -> None:
    run = subprocess.run([a_checkout(tmp_path)], env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran[:3] == ["bootstrap --fresh", "check", "test"]
    assert sorted(ran[3:]) == ["fresh bookworm", "fresh trixie"]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("failing", STEPS)
def test_a_run_with_a_step_that_fails_ends_with_1_after_all_steps(failing: str, tmp_path: Path) -> None:
    program = a_checkout(tmp_path, **{failing: f"echo the words of {failing}; exit 3"})
    run = subprocess.run([program], env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert f"the words of {failing}" in run.stdout
    assert {line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()} == set(STEPS)


def test_a_run_that_is_ended_ends_the_systems_it_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    program = a_checkout(tmp_path, fresh="echo $$ >begun; exec sleep 100")
    run = subprocess.Popen([program], env=environment(tmp_path), stdout=subprocess.DEVNULL)
    # Open for writing too, so that it has no end between the first writer and the second.
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

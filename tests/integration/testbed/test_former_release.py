"""Test the former release's code: it is unpacked from the history, and processes run it and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.version import VERSION
from testbed import former_release
from testbed.former_release import FormerRelease, NoFormerRelease, unpack
from testbed.process import Command

WHICH = """
import importlib.metadata, agent.version, ingest, ops, runtime, schema
print(*(module.__file__ for module in (agent.version, ingest, ops, runtime, schema)), sep="\\n")
print(agent.version.VERSION, importlib.metadata.version("ntppool-monitor"))
"""


@pytest.fixture
def former(tmp_path: Path) -> FormerRelease:
    try:
        return unpack(tmp_path / "former")
    except NoFormerRelease as error:
        pytest.skip(str(error))


def test_processes_run_the_former_code_only(tmp_path: Path, former: FormerRelease) -> None:
    argv = [sys.executable, "-P", "-c", WHICH]
    command = former.command(Command("which", argv, {"PATH": os.environ["PATH"]}, tmp_path / "log", tmp_path))
    ended = subprocess.run(command.argv, env=command.env, cwd=tmp_path, capture_output=True, text=True, check=True)
    *files, versions = ended.stdout.splitlines()
    assert len(files) == 5
    assert all(Path(file).is_relative_to(former.tree) for file in files)
    assert versions == f"{former_release.VERSION} {former_release.VERSION}"
    assert former_release.VERSION != VERSION


def test_history_without_the_former_release_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shallow clone."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(former_release, "CHECKOUT", tmp_path)
    with pytest.raises(NoFormerRelease, match=f"^the history here has no commit {former_release.COMMIT[:7]}, "):
        unpack(tmp_path / "former")


def test_missing_git_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoFormerRelease, match=r"^git cannot be run: "):
        unpack(tmp_path / "former")

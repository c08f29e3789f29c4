"""Test the environment and the memory measurement of the agent's benchmarks."""

import subprocess
from pathlib import Path

import pytest

from bench import agent_memory
from bench.agent_environment import make_agent_environment
from bench.stage import CannotRun


def test_reading_the_memory_of_an_ended_process_fails() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(CannotRun, match=f"the memory of process {gone.pid} cannot be read"):
        agent_memory.read_memory(gone.pid)


def test_agent_environment_has_the_locked_packages_only_and_runs_the_agent(tmp_path: Path) -> None:
    python = make_agent_environment(tmp_path / "environment")
    modules = "agent.__main__ aiomqtt pydantic_settings"
    check = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(sys.prefix)"
    there = subprocess.run([python, "-I", "-c", check, *modules.split()], capture_output=True, text=True, check=False)
    assert (there.returncode, there.stdout.strip()) == (0, str(tmp_path / "environment")), there.stderr
    for missing in ("sqlalchemy", "jwt", "opentelemetry", "ops", "auth"):
        absent = subprocess.run([python, "-I", "-c", f"import {missing}"], capture_output=True, check=False)
        assert b"ModuleNotFoundError" in absent.stderr, missing

"""Test that a process dies at the requested point."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("when", ["before", "after"])
def test_process_dies_at_the_point_if_requested_and_continues_otherwise(when: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bench.faults.points import _trap, _wrap;"
        "f = _wrap(lambda: print('within', flush=True), _trap(Path(sys.argv[1])), sys.argv[2]);"
        "f(); Path(sys.argv[1]).touch(); f(); print('went on')"
    )
    order = tmp_path / "die"
    command = [sys.executable, "-c", program, str(order), when]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.count("within") == (1 if when == "before" else 2)
    assert "went on" not in ended.stdout
    assert not order.exists()

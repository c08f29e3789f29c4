"""Test ``scripts/demo``: it prints help without installing anything, and otherwise installs what the demo needs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from ops.commands import demo as demo_command
from testbed.paths import CHECKOUT

DEMO = CHECKOUT / "scripts" / "demo"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a checkout whose bootstrap and demo only print their arguments."""
    for program in ("scripts/bootstrap", ".venv/bin/ntppool-monitor"):
        path = tmp_path / program
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\necho "{path.name}:" "$@"\n')
        path.chmod(0o755)
    shutil.copy(DEMO, tmp_path / "scripts/demo")
    return tmp_path


def run(checkout: Path, *arguments: str) -> list[str]:
    command = [checkout / "scripts/demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--seconds", "20", "--help"]])
def test_help_installs_nothing_and_fits_80_columns(checkout: Path, arguments: list[str]) -> None:
    lines = run(checkout, *arguments)
    assert lines[0] == "usage: scripts/demo [OPTION ...]"
    assert not [line for line in lines if len(line) > 80 or "bootstrap:" in line]


def test_help_lists_exactly_the_existing_options(checkout: Path) -> None:
    app = typer.Typer()
    demo_command.register(app)
    there_are = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    named = set(re.findall(r"^  (--[a-z-0-9]+)", "\n".join(run(checkout, "--help")), re.M))
    assert named == there_are - {"--help", "--install-completion", "--show-completion"}


@pytest.mark.parametrize(
    ("arguments", "installs"),
    [
        ([], "--demo"),
        (["--seconds", "20", "--tls"], "--demo"),
        (["--database", "sqlite"], "--demo"),
        (["--database", "mysql"], ""),
        (["--database=mariadb"], ""),
    ],
)
def test_demo_installs_only_the_dependencies_that_its_options_need(
    checkout: Path, arguments: list[str], installs: str
) -> None:
    assert run(checkout, *arguments) == [
        f"bootstrap: {installs}".rstrip(),
        " ".join(["ntppool-monitor: demo", *arguments]),
    ]


@pytest.mark.parametrize("kind", ["rmqtt", "rmqtt-cluster"])
def test_other_broker_is_built_after_everything_else(checkout: Path, kind: str) -> None:
    assert run(checkout, "--broker", kind) == [
        "bootstrap: --demo",
        "bootstrap: --broker",
        f"ntppool-monitor: demo --broker {kind}",
    ]


def test_failed_installation_ends_the_script(checkout: Path) -> None:
    (checkout / "scripts/bootstrap").write_text("#!/bin/sh\nexit 2\n")
    ended = subprocess.run([checkout / "scripts/demo"], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")

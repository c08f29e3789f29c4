"""Test the operators' command line at a terminal: it asks before it deletes, names the environment, and fits 80
columns."""

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy.engine import URL

from ops.__main__ import app
from runtime.db.engine import open_database, reading, transaction
from runtime.db.migrate import upgrade
from schema.tables import monitors
from testbed.fixtures.world import add_account, add_monitor, add_pair, add_server, monitor_name
from testbed.paths import CHECKOUT
from testbed.waiting import PATIENCE

COLUMNS = 80


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    path = tmp_path / "ledger.db"
    engine = open_database(URL.create("sqlite", database=str(path)))
    upgrade(engine)

    def rows(connection: Any) -> None:
        account = add_account(connection, "An account with a name that is rather long")
        name = monitor_name("uspao1-with-a-name-as-long-as-they-get")
        for ipv in ("v4", "v6"):
            monitor = add_monitor(connection, name, ipv, account_id=account)  # type: ignore[arg-type]
        server = add_server(connection, "2001:db8:1111:2222:3333:4444:5555:6666", account_id=account, score=-99.5)
        add_pair(connection, server, monitor)

    transaction(engine, rows)
    engine.dispose()
    return str(path)


def environment(ledger: str) -> dict[str, str]:
    here = {"PATH": os.environ["PATH"], "DATABASE_DSN": f"sqlite:///{ledger}", "DEPLOYMENT_MODE": "devel"}
    return {**here, "TERM": "dumb", "COLUMNS": str(COLUMNS)}


def at_terminal(ledger: str, *arguments: str, answer: str = "") -> tuple[int, str]:
    """Run a command at a terminal and type ``answer`` when it asks; return the exit code and the output."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ops", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment(ledger),
        start_new_session=True,
    )
    os.close(its)
    shown, answered, deadline = b"", False, time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            if not select.select([mine], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            shown += piece
            if b"[y/N]" in shown and not answered:
                os.write(mine, answer.encode() + b"\n")
                answered = True
        code = process.wait(timeout=max(0.1, deadline - time.monotonic()))
    finally:
        process.kill()
        process.wait()
        os.close(mine)
    return code, shown.decode().replace("\r\n", "\n")


def statuses(ledger: str) -> list[str]:
    engine = open_database(URL.create("sqlite", database=ledger))
    with reading(engine) as connection:
        found = [row.status for row in connection.execute(monitors.select().order_by(monitors.c.id))]
    engine.dispose()
    return found


@pytest.mark.parametrize("answer", ["n", "", "no", "yesterday"])
def test_nothing_is_deleted_without_confirmation(ledger: str, answer: str) -> None:
    code, shown = at_terminal(ledger, "monitors", "delete", "1", answer=answer)
    assert "permanently delete in devel: uspao1-with-a-name-as-long-as-they-get/v4 (id 1), active?" in shown
    assert (code, "nothing was deleted" in shown) == (1, True)
    assert statuses(ledger) == ["active", "active"]


def test_confirmation_deletes_the_named_monitor(ledger: str) -> None:
    code, shown = at_terminal(ledger, "monitors", "delete", "1", answer="y")
    assert (code, "was active, is deleted" in shown) == (0, True)
    assert statuses(ledger) == ["deleted", "active"]


def test_without_a_terminal_the_option_yes_is_required(ledger: str) -> None:
    def piped(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "ops", "monitors", "delete", *arguments],
            input="y\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment(ledger),
        )

    refused = piped("1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "cannot ask for confirmation without a terminal; give --yes" in refused.stderr
    assert statuses(ledger) == ["active", "active"]
    done = piped("--yes", "1", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert statuses(ledger) == ["deleted", "deleted"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["monitors", "list"],
        ["monitors", "show", "1"],
        ["servers", "list"],
        ["servers", "show", "1"],
        ["servers", "history", "1"],
        ["accounts", "list"],
        ["accounts", "show", "1"],
        ["settings", "show"],
        ["rejected", "list"],
    ],
    ids=" ".join,
)
def test_output_fits_the_terminal_and_names_the_environment(ledger: str, arguments: list[str]) -> None:
    code, shown = at_terminal(ledger, *arguments)
    assert code == 0, shown
    assert shown.startswith("ntppool-monitor: environment devel\n")
    assert max(map(len, shown.splitlines())) <= COLUMNS, shown


def commands(command: Any, *path: str) -> list[tuple[str, ...]]:
    """Return every command and group, as an operator types it."""
    found = [path]
    for name, inner in getattr(command, "commands", {}).items():
        found += commands(inner, *path, name)
    return found


ALL = commands(typer.main.get_command(app))


OPERATING = (CHECKOUT / "docs" / "operating.md").read_text(encoding="utf-8")
LEAVES = [path for path in ALL if not any(other[: len(path)] == path and other != path for other in ALL)]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_the_operating_manual_shows_every_command(path: tuple[str, ...]) -> None:
    assert re.search(rf"^    (?:\$ )?ntppool-monitor (?:-e test )?{' '.join(path)}\b", OPERATING, re.MULTILINE)


EXAMPLES = re.findall(r"^    (?:\$ )?ntppool-monitor ([^#>:\n]*)", OPERATING, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_in_the_operating_manual_is_a_valid_command(example: str) -> None:
    words = shlex.split(example)
    words = words[2:] if words[0] == "-e" else words
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_all_commands_are_found() -> None:
    assert len(ALL) > 40


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_help_of_every_command_fits_and_explains_each_option(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    assert app(args=[*path, "--help"], prog_name="ntppool-monitor", standalone_mode=False) in (0, None)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= COLUMNS
    options = re.findall(r"^  (-[^\n]*(?:\n {4,}[^\n]*)*)", text, re.MULTILINE)
    assert options
    unexplained = [option for option in options if not re.search(r"\S\s{2,}\S", option)]
    assert unexplained == []
    about = re.search(r"Usage: [^\n]*(?:\n {4,}[^\n]*)*\n\n  (\S[^\n]*)", text)
    assert about is not None and about[1][0].isupper(), text

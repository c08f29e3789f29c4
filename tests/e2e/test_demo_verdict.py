"""Test the demo's verdict: a failure if results do not arrive for any reason, in words at a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from schema.tables import metadata
from testbed.fixtures.database import DatabaseServer
from testbed.fixtures.demo import DEMO, RunningDemo, alive, children_of, demo
from testbed.waiting import PATIENCE, block_until

NAME = "of_the_demo"
HOSTS = ("%", "localhost", "127.0.0.1")
"""Where the account connects from, whatever the server's anonymous accounts and name resolution are."""


# ---- a database that refuses writes ------------------------------------------------------------------------------


def administer(server: DatabaseServer, *statements: str) -> None:
    engine = server.administration()
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
        connection.commit()


def account(server: DatabaseServer, *grants: str) -> URL:
    """Create an empty database and an ordinary account with these rights on it; return its URL with the account."""
    url = server.create(NAME)
    for host in HOSTS:
        name = f"'{NAME}'@'{host}'"
        administer(server, f"DROP USER IF EXISTS {name}", f"CREATE USER {name} IDENTIFIED BY 'pass'")
    grant(server, *grants)
    return url.set(username=NAME, password="pass")


def grant(server: DatabaseServer, *grants: str) -> None:
    """Give the account these rights; ``{}`` in them is the name of the database."""
    for host in HOSTS:
        administer(server, *(f"GRANT {one.format(NAME)} TO '{NAME}'@'{host}'" for one in grants))


def in_environment(url: URL) -> dict[str, str]:
    return {"DEMO_DATABASE_URL": url.render_as_string(hide_password=False)}


def has_waiting(running: RunningDemo) -> bool:
    return any(path.name.isdigit() for path in (running.directory / "agents").glob("*/devel/spool/*/*"))


def bad_end(running: RunningDemo) -> tuple[list[str], str]:
    """Check that the demo failed and kept its logs; return the problems and its output."""
    code, summary, err = running.end()
    assert summary is not None, err
    assert (code, summary["good"]) == (1, False), err
    assert "The demo FAILED:" in err
    assert f"the logs of all processes are in {running.directory}" in running.said()
    assert (running.directory / "logs" / "ingest.log").stat().st_size
    return summary["problems"], running.said()


def test_demo_fails_if_the_database_refuses_writes(tmp_path: Path, mariadb: DatabaseServer) -> None:
    """Results that a read-only database refuses are stored later; those that an account may not store, never."""
    url = account(mariadb)
    engine = open_database(mariadb.url(NAME))
    upgrade(engine)
    engine.dispose()
    grant(mariadb, "SELECT ON `{}`.`alembic_version`")
    grant(mariadb, *(f"SELECT, INSERT, UPDATE, DELETE ON `{{}}`.`{table}`" for table in metadata.tables))
    with demo(tmp_path, "--agents", "2", "--servers", "2", settings=in_environment(url)) as running:
        running.until(lambda: running.results() > 0, "stores results")
        administer(mariadb, "SET GLOBAL read_only = 1")
        try:
            running.until(lambda: has_waiting(running), "results wait")
            running.until(lambda: "read-only" in log_of(running, "ingest"), "ingest is refused")
        finally:
            administer(mariadb, "SET GLOBAL read_only = 0")
        running.until(lambda: not has_waiting(running), "stores what waited")
        for host in HOSTS:
            administer(mariadb, f"REVOKE INSERT ON `{NAME}`.`result_batches` FROM '{NAME}'@'{host}'")
        running.until(lambda: "denied" in log_of(running, "ingest"), "ingest is refused for good")
        running.until(lambda: has_waiting(running), "results wait again")
        running.process.send_signal(signal.SIGINT)
        problems, said = bad_end(running)
    assert any(re.fullmatch(r"\d+ batches are still in the agents' spools", problem) for problem in problems)
    assert "some results did not reach the ledger, or were not scored, in time" in problems
    assert re.search(r"ingest: .*denied.*result_batches", said)
    assert "pass'" not in said


def test_demo_does_not_start_if_the_account_may_not_create_tables(tmp_path: Path, mariadb: DatabaseServer) -> None:
    url = account(mariadb, "SELECT ON `{}`.*")
    with demo(tmp_path, settings=in_environment(url)) as running:
        code, summary, err = running.end()
    assert (code, summary) == (1, None)
    assert "denied" in err and "Traceback" not in err and ":pass@" not in err


def test_demo_fails_if_the_disk_of_the_database_is_full(tmp_path: Path) -> None:
    """Only the database is on that disk: the agents' results are kept and wait."""
    small = tmp_path / "small"
    small.mkdir()
    by = on_a_disk_of(small, kilobytes=1600)
    settings = {"DEMO_DATABASE_URL": f"sqlite:///{small}/ledger.db"}
    with demo(tmp_path, "--agents", "4", "--servers", "6", by=by, settings=settings) as running:
        running.until(lambda: "disk is full" in log_of(running, "ingest"), "the disk is full")
        running.until(lambda: has_waiting(running), "results wait")
        running.process.send_signal(signal.SIGINT)
        problems, said = bad_end(running)
    assert any("batches are still in the agents' spools" in problem for problem in problems)
    assert "disk is full" in said


def log_of(running: RunningDemo, name: str) -> str:
    log = running.directory / "logs" / f"{name}.log"
    return log.read_text() if log.exists() else ""


def on_a_disk_of(path: Path, kilobytes: int) -> list[str]:
    """Return a prefix that runs a command with a disk of that size at ``path``, invisible to other processes."""
    namespaces = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    mount = f"mount -t tmpfs -o size={kilobytes}k,mode=0777 tmpfs '{path}' && exec \"$@\""
    by = [*namespaces, "sh", "-c", mount, "sh"]
    if subprocess.run([*by, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk of their own")
    return by


def test_run_too_short_to_score_all_servers_is_not_reported_as_good(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "1", "--agents", "1", "--servers", "6") as running:
        code, summary, err = running.end()
    assert summary is not None, err
    assert (code == 0) is summary["good"] is (summary["problems"] == []), err
    unscored = [server["server"] for server in summary["servers"] if server["score"] is None]
    assert not (summary["good"] and (unscored or not summary["committed"])), err
    assert ("run the demo longer" in " ".join(err.split())) is bool(unscored)
    # Without a terminal:
    assert len(running.out.read_text().splitlines()) == 1, "stdout is a single line of JSON"
    assert max(len(line) for line in err.splitlines() if str(tmp_path) not in line) <= 80


# ---- a terminal ------------------------------------------------------------------------------------------------------


class Terminal:
    """A demo at a terminal of 80 columns, in a temporary directory that it chooses itself."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        env = {**os.environ, "TMPDIR": str(temporary), "TERM": "xterm", "COLUMNS": "80"}
        self.process = subprocess.Popen(
            [*DEMO, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
        )
        os.close(theirs)
        self._ours = ours
        self._text = b""

    def read(self) -> bool:
        """Read the available output; return False at its end."""
        if not select.select([self._ours], [], [], 0.1)[0]:
            return True
        try:
            self._text += os.read(self._ours, 65536)
        except OSError:  # EIO: no process has the other end open any more
            return False
        return True

    @property
    def text(self) -> str:
        """Return the output without terminal control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._text.decode()).replace("\r\n", "\n").replace("\r", "\n")

    def until(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.text, re.M)
            assert match or self.read(), f"{pattern!r} is not in: {self.text}"
            return match

        match: re.Match[str] = block_until(found, lambda: f"{pattern!r} in: {self.text}")
        return match

    def end(self) -> int:
        block_until(lambda: not self.read(), lambda: f"the end of: {self.text}")
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Create a temporary directory with a space in its path, which is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="of tests ", dir="/tmp") as directory:
        yield Path(directory)


def test_the_verdict_is_printed_in_words_at_a_terminal(temporary: Path) -> None:
    terminal = Terminal(temporary, "--agents", "2", "--servers", "2", "--database", "mariadb")
    try:
        hint = terminal.until(r"^  (sh .*/monitor.* servers list)$")[1]
        _works_as_printed(hint)
        terminal.until(r"127\.20\.0\.1 .*\d\.\d +\d +\d +\d$")
        terminal.until(r"127\.20\.1\.1 .*\d\.\d +\d +\d +\d$")
        os.killpg(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 0, terminal.text
    finally:
        terminal.close()
    lines = terminal.text.splitlines()
    assert "The demo succeeded: all " in terminal.text
    assert [line for line in lines if line.startswith("  127.20.1.1 ")][-1].endswith("no: clock is 400 ms ahead")
    assert [line for line in lines if line.startswith("{")] == [], "nobody asked for JSON"
    assert [line for line in lines if len(line) > 80 and str(temporary) not in line] == []
    assert list(temporary.iterdir()) == [], "all went well, so nothing is kept"


def _works_as_printed(line: str) -> None:
    """Check that the printed command works in another shell, directory and environment."""
    env = {"PATH": "/usr/bin:/bin", "DATABASE_DSN": "mysql://of.another.pool/x", "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["sh", "-c", line], cwd="/", env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "127.20.0.1" in done.stdout and "127.20.1.1" in done.stdout


def test_dead_process_ends_the_demo_with_its_name_and_the_end_of_its_log(temporary: Path) -> None:
    """The logs in a temporary directory are kept, and JSON is printed at a terminal if asked for."""
    terminal = Terminal(temporary, "--agents", "1", "--servers", "1", "--json")
    try:
        terminal.until("running; to inspect it")
        (kept,) = temporary.iterdir()
        children = children_of(terminal.process.pid)
        [scorer] = [pid for pid, command in children.items() if " scorer" in command]
        os.kill(scorer, signal.SIGKILL)
        assert terminal.end() == 1
    finally:
        terminal.close()
    assert alive(list(children)) == []
    assert str(kept) in terminal.text
    assert (kept / "logs" / "broker.log").stat().st_size
    said = " ".join(terminal.text.split())
    assert "scorer was killed by SIGKILL; the end of " in said
    assert "The demo FAILED: - scorer was killed by SIGKILL" in said
    [summary] = [json.loads(line) for line in terminal.text.splitlines() if line.startswith("{")]
    assert summary["died"] == ["scorer"]


def test_help_fits_80_columns() -> None:
    done = subprocess.run([*DEMO, "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert sys.executable not in done.stdout

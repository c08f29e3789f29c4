"""Test that ``scripts/fresh`` leaves nothing behind and reports its result correctly; CI runs it completely.

The archive is a socket on 127.0.0.1, so nothing is downloaded.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.paths import CHECKOUT

FRESH = CHECKOUT / "scripts" / "fresh"
MAY = (
    os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode == 0
)
needs_root = pytest.mark.skipif(
    not MAY or shutil.which("debootstrap") is None,
    reason="needs root that may make namespaces, and what scripts/bootstrap --fresh installs",
)


@pytest.fixture
def silent_archive() -> Iterator[socket.socket]:
    """Open a socket that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def fresh(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.Popen(
        [FRESH, *arguments],
        env=inherited | {"TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "no_proxy": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def at(archive: socket.socket) -> tuple[str, str]:
    return "--archive", f"http://127.0.0.1:{archive.getsockname()[1]} main"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "which suite?"),
        (("--user",), "which suite?"),
        (("bookworm", "--fast"), "unknown option '--fast'"),
        (("bookworm", "trixie"), "'trixie' is the second"),
        (("../etc",), "is not the name of a suite"),
        (("bookworm", "--seconds"), "--seconds needs a value"),
        (("bookworm", "--seconds", "long"), "--seconds needs a number"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with fresh(*arguments, folder=tmp_path) as run:
        _, err = run.communicate(timeout=60)
    assert (run.returncode, err.count("\n")) == (2, 1)
    assert said in err


def mounted(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def running_in(folder: Path) -> list[str]:
    """Return the command lines that contain the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_run_and_leaves_nothing_behind(
    number: signal.Signals, silent_archive: socket.socket, tmp_path: Path
) -> None:
    with fresh("bookworm", *at(silent_archive), folder=tmp_path) as run:
        waiting, _ = silent_archive.accept()
        assert len(list(tmp_path.glob("ntppool-fresh.*"))) == 1
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
        waiting.close()
    assert run.returncode == 128 + number, err
    assert (list(tmp_path.glob("ntppool-fresh.*")), mounted(tmp_path), running_in(tmp_path)) == ([], [], [])


@needs_root
def test_next_run_removes_the_remains_of_a_killed_one(silent_archive: socket.socket, tmp_path: Path) -> None:
    with fresh("bookworm", *at(silent_archive), folder=tmp_path) as killed:
        waiting, _ = silent_archive.accept()
        killed.kill()
        # Its pipes close when the last of its processes has ended.
        killed.communicate(timeout=60)
        waiting.close()
    (left,) = tmp_path.glob("ntppool-fresh.*")
    kept = tmp_path / "ntppool-fresh.kept"
    kept.mkdir()
    (kept / "kept").touch()
    with fresh("bookworm", *at(silent_archive), folder=tmp_path) as run:
        waiting, _ = silent_archive.accept()
        assert not left.exists()
        run.terminate()
        run.communicate(timeout=60)
        waiting.close()
    assert list(tmp_path.glob("ntppool-fresh.*")) == [kept]


@needs_root
def test_two_runs_work_at_the_same_time(silent_archive: socket.socket, tmp_path: Path) -> None:
    with (
        fresh("bookworm", *at(silent_archive), folder=tmp_path) as first,
        fresh("bookworm", *at(silent_archive), folder=tmp_path) as second,
    ):
        ends = [silent_archive.accept()[0] for _ in range(2)]
        assert len(list(tmp_path.glob("ntppool-fresh.*"))) == 2
        for run in (first, second):
            run.terminate()
            run.communicate(timeout=60)
        for end in ends:
            end.close()


@needs_root
@pytest.mark.parametrize("keep", [False, True])
def test_failed_first_step_is_reported_and_keep_keeps_the_system(
    keep: bool, silent_archive: socket.socket, tmp_path: Path
) -> None:
    def refuse() -> None:
        while True:
            try:
                connection, _ = silent_archive.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    server = threading.Thread(target=refuse)
    server.start()
    try:
        options = ("--keep",) if keep else ()
        with fresh("bookworm", *options, *at(silent_archive), folder=tmp_path) as run:
            _, err = run.communicate(timeout=60)
    finally:
        silent_archive.shutdown(socket.SHUT_RDWR)
        server.join()
    assert run.returncode == 1, err
    assert "FAILED after" in err and "with exit code 1: making a minimal system" in err
    assert "scripts/demo" not in err
    assert len(list(tmp_path.glob("ntppool-fresh.*"))) == (1 if keep else 0)

"""Enforce that unit tests are fast and reproducible: no process, no other host, no long sleep.

``scripts/test --fast`` runs this folder only. A test that needs one of these belongs in ``tests/integration``; here it
fails with an explanation, wherever the call is.
"""

import asyncio
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

LONGEST_SLEEP_SECONDS = 0.1
TESTS = str(Path(__file__).resolve().parent)
PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}

_broken: list[str] | None = None
"""Violations of these rules by the running test; None while no unit test runs."""


def _refuse(what: str) -> None:
    reason = f"tests/unit {what}: such a test belongs to tests/integration"
    if _broken is not None:
        _broken.append(reason)  # so that the test fails even if the error is caught
    raise RuntimeError(reason)


def _is_elsewhere(address: Any) -> bool:
    """Return whether a socket's address is neither on loopback nor a path."""
    if not isinstance(address, tuple):
        return False
    host = str(address[0])
    return not (host.startswith("127.") or host in ("::1", "localhost", ""))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _broken is None:
        return
    if event in PROCESSES:
        _refuse(f"starts no process ({event})")
    elif event == "socket.connect" and _is_elsewhere(arguments[1]):
        _refuse(f"connects to no other host ({arguments[1]})")


sys.addaudithook(_audit)
_asyncio_sleep, _time_sleep = asyncio.sleep, time.sleep


def _look_at(seconds: float) -> None:
    """Refuse a long sleep in a test; the tested code may sleep as long as it likes."""
    if seconds > LONGEST_SLEEP_SECONDS and sys._getframe(2).f_code.co_filename.startswith(TESTS):
        _refuse(f"sleeps for no more than {LONGEST_SLEEP_SECONDS} s ({seconds} s)")


def _sleep_in_turn(delay: float, result: Any = None) -> Any:
    _look_at(delay)
    return _asyncio_sleep(delay, result)


def _sleep(seconds: float) -> None:
    _look_at(seconds)
    _time_sleep(seconds)


def _watched() -> Generator[None, Any, Any]:
    """Watch one phase of a test; the body of a hook wrapper."""
    global _broken
    _broken = found = []
    asyncio.sleep, time.sleep = _sleep_in_turn, _sleep  # type: ignore[assignment]
    try:
        result = yield
    finally:
        _broken = None
        asyncio.sleep, time.sleep = _asyncio_sleep, _time_sleep
    assert not found, found[0]
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Any:
    """Watch the fixtures, too: a broker or a database is a process."""
    return (yield from _watched())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Any:
    return (yield from _watched())

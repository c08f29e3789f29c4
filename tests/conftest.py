"""Load the fixtures of ``testbed/fixtures``, and isolate every test from what earlier ones left behind."""

import gc
import itertools
import logging
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import pytest
import typer.main
from hypothesis import settings

from testbed.random_inputs import PROFILE, THOROUGH, examples, may_be_slow

TESTS = Path(__file__).resolve().parent
pytest_plugins = ["testbed.fixtures.broker", "testbed.fixtures.database"]


def pytest_configure() -> None:
    """Restore the default signals for processes that tests start.

    If tests run in the background of a script, or with nohup, they ignore SIGINT or SIGHUP. Children inherit this, and
    bash cannot even trap such signals. A handler is not inherited, and still ignores them in this process.
    """

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, ignore)

    # Collection creates hundreds of thousands of objects that stay, and no garbage worth looking for.
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but never again among what exists already."""
    gc.freeze()
    gc.enable()


# Typer builds all commands of a program anew for each call. A process makes one call, but tests make hundreds.
typer.main.get_command = cache(typer.main.get_command)

settings.register_profile(PROFILE, parent=examples(100))
settings.load_profile(PROFILE)


SLOWEST = (
    "e2e/test_demo.py",
    "e2e/test_faults.py",
    "e2e/test_reconnecting.py",
    "e2e/test_kill.py",
    "e2e/test_demo_verdict.py",
    "e2e/test_worker_process.py",
    "e2e/",
    "migration/",
    "integration/",
)
"""Paths of the slowest tests. If several processes share the tests, these start first, in this order."""

SECONDS = {"e2e": 5.0, "migration": 3.5, "integration": 0.7}
"""Mean duration of a test by folder. These tests mostly wait; those of ``unit`` take milliseconds of CPU time."""


def _rank(path: str) -> int:
    """Return the rank of a test in the order of start."""
    return next((rank for rank, beginning in enumerate(SLOWEST) if path.startswith(beginning)), len(SLOWEST))


def _slowest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Order the tests for several processes: the slowest first, so that none of them runs at the end alone.

    The unit tests are spread evenly over the time of the others, whose waiting leaves the processors idle.
    """
    paths = {item: item.path.relative_to(TESTS).as_posix() for item in items}
    seconds = {item: SECONDS.get(path.partition("/")[0], 0.0) for item, path in paths.items()}
    waiting = sorted((item for item in items if seconds[item]), key=lambda item: _rank(paths[item]))
    computing = [item for item in items if not seconds[item]]
    total = sum(seconds.values())
    starts = {item: place * total / len(computing) for place, item in enumerate(computing)}
    starts |= zip(waiting, itertools.accumulate((seconds[item] for item in waiting), initial=0.0), strict=False)
    return sorted(items, key=lambda item: starts[item])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slowest tests first, and refuse tests with random inputs that would fail on a slow machine."""
    if hasattr(config, "workerinput"):  # this is one of several processes
        items[:] = _slowest_first(items)
    for item in items:
        if THOROUGH:
            item.add_marker(pytest.mark.timeout(3600))
        chosen = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if isinstance(chosen, settings) and not may_be_slow(chosen):
            raise pytest.UsageError(f"{item.nodeid} may fail on a slow machine: use testbed.random_inputs.examples")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Restore logging, since a program that a test runs in this process configures it for all later tests."""
    root, known = logging.getLogger(), logging.root.manager.loggerDict.values()
    handlers, level = root.handlers[:], root.level
    levels = {logger: logger.level for logger in known if isinstance(logger, logging.Logger)}
    yield
    root.handlers[:] = handlers
    # Setting a level clears the caches of all loggers, so set only those that have changed.
    for logger, before in ((root, level), *levels.items()):
        if logger.level != before:
            logger.setLevel(before)

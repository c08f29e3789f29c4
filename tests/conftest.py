"""Load the fixtures of ``testbed/fixtures``, and isolate every test from what earlier ones left behind."""

import gc
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
pytest_plugins = [
    "testbed.fixtures.broker",
    "testbed.fixtures.database",
    "testbed.fixtures.files_in_memory",
    "testbed.fixtures.galera",
]


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


WAITING = (
    "e2e/test_demo.py",
    "e2e/test_faults.py",
    "e2e/test_notifier_process.py",
    "e2e/test_reconnecting.py",
    "e2e/test_selection_with_agents.py",
    "e2e/test_kill.py",
    "e2e/test_upgrade.py",
    "e2e/test_identity_trouble.py",
    "e2e/test_demo_verdict.py",
    "e2e/test_traces.py",
    "e2e/test_readiness.py",
    "e2e/test_worker_process.py",
    "e2e/test_ingest_process.py",
    "e2e/test_scorer_process.py",
    "e2e/test_selector_process.py",
)
"""Files whose tests wait for real processes for tens of seconds, the slowest first."""

BEGINNING = 0.6
"""Share of a run with several processes in which the tests of ``WAITING`` start."""

FOLDERS = ("e2e", "migration", "integration", "unit")
"""The order of all other tests; those of ``unit`` are spread evenly among them."""


def _evenly(few: list[pytest.Item], many: list[pytest.Item], share: float) -> list[pytest.Item]:
    """Spread ``few`` evenly over the first ``share`` of ``many``; both keep their order."""
    places = {item: place * share * len(many) / len(few) for place, item in enumerate(few)}
    places |= {item: float(place) for place, item in enumerate(many)}
    return sorted([*few, *many], key=lambda item: places[item])


def _for_several_processes(items: list[pytest.Item]) -> list[pytest.Item]:
    """Order the tests so that at any time some wait while others compute, and none of the slowest runs at the end."""
    paths = {item: item.path.relative_to(TESTS).as_posix() for item in items}
    waiting = sorted((item for item in items if paths[item] in WAITING), key=lambda item: WAITING.index(paths[item]))
    folders = {item: path.partition("/")[0] for item, path in paths.items() if path not in WAITING}
    others = sorted(folders, key=lambda item: FOLDERS.index(folders[item]))
    quick = [item for item in others if folders[item] == "unit"]
    return _evenly(waiting, _evenly(quick, [item for item in others if folders[item] != "unit"], 1.0), BEGINNING)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests, and refuse tests with random inputs that would fail on a slow machine."""
    if hasattr(config, "workerinput"):  # this is one of several processes
        items[:] = _for_several_processes(items)
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

"""Makes the fixtures of ``testbed/fixtures`` known, and every test independent of what others left behind."""

import logging
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["testbed.fixtures.broker", "testbed.fixtures.database"]


def pytest_configure() -> None:
    """Gives the processes that tests start the default signals.

    A run in the background of a script, or with nohup, ignores SIGINT or SIGHUP, and children inherit that: bash could
    not even trap them. A handler is not inherited, and goes on ignoring them here.
    """

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, ignore)


# How long an example takes says something about the machine, not about the code: it is no reason to fail.
settings.register_profile("any machine", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Puts logging back: a program that a test runs in its own process sets it up, and for all tests after it."""
    root, known = logging.getLogger(), logging.root.manager.loggerDict.values()
    handlers, level = root.handlers[:], root.level
    levels = {logger: logger.level for logger in known if isinstance(logger, logging.Logger)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, before in levels.items():
        logger.setLevel(before)

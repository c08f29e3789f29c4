"""Test that a monitor that flaps, or sends odd statuses, causes only limited work for the selector."""

import asyncio
import logging
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime import log
from runtime.mqtt.session import Incoming
from schema.messages import Status, encode
from schema.topics import Topics
from selector import drift
from selector.drift import DriftWatch
from selector.row_warnings import RowWarnings
from testbed.fixtures.manual_clock import ManualClock

TOPICS = Topics("devel")
NAME = "m.devel.mon.example"
OTHER = "n.devel.mon.example"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    for module in (drift, log):
        monkeypatch.setattr(module, "time", made)
    return made


class Selector:
    """An agent watch, and how often it looked at the ledger and had a tree reconciled."""

    def __init__(self) -> None:
        self.marked: list[str] = []
        self.looked = 0
        worker = SimpleNamespace(topics=TOPICS, in_database=self._look)
        reconciler = SimpleNamespace(mark=lambda name, resend_all=False: self.marked.append(name))
        known = {NAME, OTHER}
        self.watch = DriftWatch(
            cast(Any, worker), cast(Any, None), cast(Any, reconciler), RowWarnings(), known=known.__contains__
        )

    async def _look(self, _work: object) -> dict[str, str]:
        self.looked += 1
        return {}

    def hears(self, name: str, online: bool | None) -> None:
        payload = b"" if online is None else encode(Status(online=online))
        self.watch.on_status(Incoming(TOPICS.status(name), payload, retain=True))

    async def compares(self) -> None:
        """Whatever it has to compare now."""
        running = asyncio.create_task(self.watch.run())
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("gone", [False, None])
async def test_an_agent_that_comes_and_goes_is_compared_every_20_s_and_its_tree_read_every_5_minutes(
    gone: bool | None, clock: ManualClock
) -> None:
    selector = Selector()
    for _ in range(600):  # ten minutes, ten times a second
        for _ in range(10):
            selector.hears(NAME, True)
            await selector.compares()
            selector.hears(NAME, gone)
        clock.now += 1.0
    assert selector.marked == [NAME, NAME]
    assert selector.looked <= 31


async def test_who_comes_for_the_first_time_is_looked_at_at_once(clock: ManualClock) -> None:
    selector = Selector()
    selector.hears(NAME, True)
    selector.hears(OTHER, True)
    assert selector.marked == [NAME, OTHER]
    clock.now += 299.0
    for online in (False, True):
        selector.hears(NAME, online)
    assert selector.marked == [NAME, OTHER]
    clock.now += 1.0
    for online in (False, True):
        selector.hears(NAME, online)
    assert selector.marked == [NAME, OTHER, NAME]


def test_what_is_wrong_with_a_row_is_said_once_and_not_in_turns(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    said = RowWarnings()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            said.warn("status", NAME, "not JSON")
            said.warn("status", NAME, "no object")
    assert [record.getMessage() for record in caplog.records] == [
        f"status {NAME}: not JSON",
        f"status {NAME}: no object",
    ]


def test_an_agent_that_says_something_else_each_time_fills_no_log(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    said = RowWarnings()
    with caplog.at_level(logging.WARNING):
        for number in range(3600):  # an hour
            said.warn("status", NAME, f"nonsense {number}")
            clock.now += 1.0
        assert len(caplog.records) <= 28
        said.warn("status", OTHER, "not JSON")
    assert caplog.records[-1].getMessage() == f"status {OTHER}: not JSON"

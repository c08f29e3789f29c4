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
    """A drift watch, and how often it read the ledger and had a tree reconciled."""

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
        """Run all pending comparisons."""
        running = asyncio.create_task(self.watch.run())
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("gone", [False, None])
async def test_flapping_agent_is_compared_and_reconciled_at_bounded_intervals(
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


async def test_first_appearance_of_an_agent_is_reconciled_at_once(clock: ManualClock) -> None:
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


def test_alternating_warnings_about_a_row_are_logged_once_each(
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


def test_ever_changing_warnings_do_not_flood_the_log(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    said = RowWarnings()
    with caplog.at_level(logging.WARNING):
        for number in range(3600):  # an hour
            said.warn("status", NAME, f"nonsense {number}")
            clock.now += 1.0
        assert len(caplog.records) <= 28
        said.warn("status", OTHER, "not JSON")
    assert caplog.records[-1].getMessage() == f"status {OTHER}: not JSON"

"""Test the repair of assignments that differ from the ledger: first in the retained tree, then by a complete resend."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.mqtt.session import Incoming
from schema.messages import ProtocolState, Status, encode
from schema.topics import Topics
from selector import drift
from selector.drift import PAUSE, RESEND_ALL_AGAIN, DriftWatch
from selector.row_warnings import RowWarnings
from testbed.fixtures.manual_clock import ManualClock

TOPICS = Topics("devel")
NAME = "m.devel.mon.example"
ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr(drift, "time", made)
    return made


class Pool:
    """A selector and one agent. ``ledger`` is the hash of the assignments that the agent should hold."""

    def __init__(self, clock: ManualClock) -> None:
        self.ledger = ONE
        self._clock = clock
        self._marked: list[bool] = []
        worker = SimpleNamespace(topics=TOPICS, in_database=self._read)
        reconciler = SimpleNamespace(mark=lambda name, resend_all=False: self._marked.append(resend_all))
        self._watch = DriftWatch(
            cast(Any, worker), cast(Any, None), cast(Any, reconciler), RowWarnings(), known=NAME.__eq__
        )
        self._hear(ONE)
        self._marked.clear()  # the mark for coming online

    async def _read(self, _work: object) -> dict[str, str]:
        return {"v4": self.ledger}

    def _hear(self, held: str) -> None:
        state = ProtocolState(status="active", probing=True, assignments=1, assignments_hash=held)
        self._watch.on_status(Incoming(TOPICS.status(NAME), encode(Status(online=True, protocols={"v4": state}))))

    async def says(self, held: str) -> list[bool]:
        """Report ``held`` as the agent's hash; return what is reconciled: its tree (False), or everything (True)."""
        self._clock.now += PAUSE
        self._hear(held)
        running = asyncio.create_task(self._watch.run())
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        marked, self._marked = self._marked, []
        return marked


async def test_agent_without_a_difference_is_left_alone(clock: ManualClock) -> None:
    pool = Pool(clock)
    assert [await pool.says(ONE) for _ in range(3)] == [[], [], []]


async def test_same_difference_with_a_correct_tree_causes_a_complete_resend(clock: ManualClock) -> None:
    pool = Pool(clock)
    assert await pool.says(TWO) == [False]
    assert await pool.says(TWO) == [True]


async def test_changing_differences_cause_no_complete_resend(clock: ManualClock) -> None:
    """Its reports lag behind: each contains another hash, or is compared with another one."""
    pool = Pool(clock)
    assert await pool.says(TWO) == [False]
    assert await pool.says(THREE) == [False]
    pool.ledger = TWO
    assert await pool.says(THREE) == [False]
    assert await pool.says(THREE) == [True]


async def test_agreement_in_between_starts_the_comparison_over(clock: ManualClock) -> None:
    pool = Pool(clock)
    assert [await pool.says(held) for held in (TWO, ONE, TWO)] == [[False], [], [False]]


async def test_complete_resends_are_limited_to_one_an_hour(clock: ManualClock) -> None:
    pool = Pool(clock)
    told = [await pool.says(TWO) for _ in range(int(RESEND_ALL_AGAIN / PAUSE) + 2)]
    assert told == [[False], [True], *[[False]] * (int(RESEND_ALL_AGAIN / PAUSE) - 1), [True]]

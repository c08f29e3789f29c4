"""Test when the status message is published, and when the report file is written."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import msgspec
import pytest

from agent.status import Presence, report_changes
from runtime.mqtt.session import NotConnected, PublishRefused
from schema.limits import STATUS_REFRESH
from schema.messages import ProtocolState, SpoolState, Status
from testbed.waiting import wait_until


class Pool:
    def __init__(self) -> None:
        self.status = Status(online=True)
        self.said: list[Status] = []
        self.broken = False
        self.ready = asyncio.Event()
        self.ready.set()

    async def publish(self, status: Status) -> None:
        if self.broken:
            raise NotConnected("gone")
        self.said.append(status)

    async def until(self, condition: Callable[[], object]) -> None:
        await wait_until(condition, lambda: str(self.said), within=5)


async def test_status_is_published_when_it_changes_and_on_connection() -> None:
    pool = Pool()
    pool.ready.clear()
    presence = Presence(lambda: pool.status, pool.publish, pool.ready.wait, settle=0.01)
    task = asyncio.create_task(presence.run())
    await asyncio.sleep(0.03)
    assert pool.said == [], "not before there is a connection"
    pool.ready.set()
    await pool.until(lambda: len(pool.said) == 1)
    assert pool.said[0].online

    pool.status = msgspec.structs.replace(pool.status, spool=SpoolState(batches=7, bytes=700))
    presence.changed()
    await asyncio.sleep(0.05)
    assert len(pool.said) == 1, "what changes all the time is no news"

    state = ProtocolState(status="active", probing=True, assignments=1, assignments_hash="0" * 32)
    pool.status = msgspec.structs.replace(pool.status, protocols={"v4": state})
    presence.changed()
    await pool.until(lambda: len(pool.said) == 2)
    assert pool.said[-1].protocols["v4"].probing and pool.said[-1].spool.batches == 7

    presence.connected()
    await pool.until(lambda: len(pool.said) == 3)

    pool.broken = True
    pool.status = Status(online=True, version="2")
    presence.changed()
    await asyncio.sleep(0.05)
    pool.broken = False
    await pool.until(lambda: pool.said[-1].version == "2")
    task.cancel()
    await asyncio.wait({task})


async def test_status_is_repeated_in_time_however_often_it_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check of the clock may change it. The selector takes a monitor for gone whose status was not repeated."""
    monkeypatch.setattr("agent.status.STATUS_REFRESH", timedelta(seconds=0.2))
    pool = Pool()
    presence = Presence(lambda: pool.status, pool.publish, pool.ready.wait, settle=0.001)
    task = asyncio.create_task(presence.run())
    begin = time.monotonic()
    async with asyncio.timeout(10):
        while len(pool.said) < 4:
            presence.changed()
            await asyncio.sleep(0.005)
    assert time.monotonic() - begin > 0.5, "but not more often"
    task.cancel()
    await asyncio.wait({task})


async def test_changes_in_quick_succession_share_a_report() -> None:
    written: list[float] = []
    changed = asyncio.Event()
    task = asyncio.create_task(
        report_changes(lambda: written.append(time.monotonic()), changed, settle=0.05, every=3600)
    )
    async with asyncio.timeout(10):
        while len(written) < 5:
            changed.set()
            await asyncio.sleep(0.001)
        changed.set()
        await wait_until(lambda: len(written) == 6, "the last change is written, too, although no other follows")
    assert all(later - earlier > 0.049 for earlier, later in pairwise(written))
    task.cancel()
    await asyncio.wait({task})


async def test_report_is_written_at_intervals_without_a_change() -> None:
    written: list[float] = []
    task = asyncio.create_task(
        report_changes(lambda: written.append(time.monotonic()), asyncio.Event(), settle=0.01, every=0.05)
    )
    await wait_until(lambda: len(written) >= 3, within=10)
    assert all(later - earlier > 0.059 for earlier, later in pairwise(written))
    task.cancel()
    await asyncio.wait({task})


async def test_refused_status_is_not_retried_before_reconnection() -> None:
    pool, tried = Pool(), 0

    async def refuse(status: Status) -> None:
        nonlocal tried
        tried += 1
        raise PublishRefused("not authorized")

    presence = Presence(lambda: pool.status, refuse, pool.ready.wait, settle=0.001)
    task = asyncio.create_task(presence.run())
    await pool.until(lambda: tried == 1)
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert tried == 1
    presence.connected()
    await pool.until(lambda: tried == 2)
    task.cancel()


async def test_unchanged_status_is_republished_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timedelta(minutes=5) == STATUS_REFRESH
    monkeypatch.setattr("agent.status.STATUS_REFRESH", timedelta(seconds=0.05))
    pool = Pool()
    presence = Presence(lambda: pool.status, pool.publish, pool.ready.wait, settle=0.001)
    task = asyncio.create_task(presence.run())
    await pool.until(lambda: len(pool.said) >= 4)
    task.cancel()

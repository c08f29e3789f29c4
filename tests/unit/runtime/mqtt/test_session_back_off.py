"""Test how long a session waits before it reconnects."""

import asyncio

import pytest

from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Lost, quick_back_off


async def test_lasting_connection_resets_the_failure_count(monkeypatch: pytest.MonkeyPatch) -> None:
    lasted, told = iter([0.0, 0.0, 59.0, 61.0, 0.0, 0.0]), list[int]()
    enough = asyncio.Event()

    def back_off(lost: Lost, failures: int) -> float:
        told.append(failures)
        if len(told) == 6:
            enough.set()
        return 3_600.0 if len(told) == 6 else 0.0

    async def connect_once() -> Lost:
        return Lost("gone", None, next(lasted))

    session = BrokerSession(BrokerAddress("::1", 1), Identity("a", "a"), lambda: "token", back_off=back_off)
    monkeypatch.setattr(session, "_connect_once", connect_once)
    task = asyncio.create_task(session.run())
    async with asyncio.timeout(10):
        await enough.wait()
    task.cancel()
    assert told == [1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize(("failures", "longest"), [(0, 0.1), (1, 0.2), (3, 0.8), (7, 10.0), (5_000, 10.0)])
def test_back_off_grows_to_ten_seconds_at_most(failures: int, longest: float) -> None:
    waits = [quick_back_off(Lost("gone", None, 0.0), failures) for _ in range(200)]
    assert longest / 2 <= min(waits) and max(waits) <= longest
    assert max(waits) - min(waits) > longest / 10, "not all at the same time"

"""Test that scorer and selector do nothing while their host's clock is doubted, and start when it is trusted."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter

from runtime.clock import Clock, Comparison
from runtime.health import Rounds
from scorer.rounds import Scored
from scorer.worker import _Scoring
from selector.review_loop import ReviewLoop


class Worker:
    """Fake worker that records the work for the database."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.clock, self.rounds, self.status = Clock(), Rounds(), dict[str, Any]()
        self.telemetry = SimpleNamespace(meter=NoOpMeter("test"))
        self.engine = None
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self._answer = answer

    async def in_database(self, work: Any) -> Any:
        self.asked.put_nowait(work)
        return self._answer(work)


def of_scorer(worker: Any) -> _Scoring:
    return _Scoring(worker, [])


def of_selector(worker: Any) -> ReviewLoop:
    return ReviewLoop(worker, *([None] * 3))  # type: ignore[arg-type]


def scorers_answer(work: Any) -> Any:
    return Scored(), 0.0, 10


def selectors_answer(work: Any) -> Any:
    return [], 0.1


@pytest.mark.parametrize(
    ("loop", "answer"), [(of_scorer, scorers_answer), (of_selector, selectors_answer)], ids=("scorer", "selector")
)
async def test_loop_does_nothing_while_the_clock_is_doubted(
    loop: Callable[[Any], Any], answer: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.clock._LOOK_AGAIN", 0.001)
    worker = Worker(answer)
    worker.clock._apart = "of the test"
    running = asyncio.create_task(loop(worker).run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert worker.asked.empty()
    worker.clock.note(Comparison(0.0, 0.0, worker.clock._base))
    async with asyncio.timeout(10):
        await worker.asked.get()
    running.cancel()
    await asyncio.wait({running})

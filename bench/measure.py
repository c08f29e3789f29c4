"""Share code among the benchmarks of the whole system: a load, a window of time in which it is measured, and the
check."""

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from bench.figure import Figure, percentile
from bench.history import add_history
from bench.progress import pass_time, say
from bench.stage import Stage, shares, stage
from bench.world import ENV, World, fill
from runtime.db.engine import reading, utc_now
from runtime.db.queue import SCORING
from schema.messages import BatchCommitted
from testbed.checker.check import Before, Checked, check, read_before
from testbed.checker.difference import lines
from testbed.checker.load import read_attempts
from testbed.database import DatabaseServer
from testbed.load.record import History, histories, read_lines
from testbed.load.spec import LoadSpec, Member

_DRAIN: Final = 60.0
_REST_WITHIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Window:
    """A span of Unix time, and the cores that each process kept busy in it."""

    begin: float
    end: float
    cores: dict[str, float]

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Answer:
    """An acknowledged batch: when (Unix time), after how long (s), and how many results were stored."""

    at: float
    after: float
    results: int


def load_spec(stage: Stage, members: list[Member], record: Path, **given: object) -> LoadSpec:
    """Make a load for this stage."""
    address = stage.site.broker_address
    return LoadSpec(
        env=ENV,
        host=address.host,
        port=address.port,
        key_file=stage.key_file,
        record=record,
        members=members,
        drain=_DRAIN,
        **given,  # type: ignore[arg-type]  # the keywords of LoadSpec
    )


async def load_for(stage: Stage, spec: LoadSpec, warm_up: float, seconds: float) -> Window:
    """Run a load until all of it is acknowledged; the window begins after ``warm_up``.

    Raises:
        CannotRun: the load failed, or was not acknowledged completely.
    """
    name = await stage.start_load(msgspec.structs.replace(spec, seconds=warm_up + seconds))
    await pass_time("warming up", warm_up)
    before, begin = stage.cpu_seconds(), time.time()
    await pass_time("measuring", seconds)
    after, end = stage.cpu_seconds(), time.time()
    await stage.wait_load(name, within=_DRAIN + 10.0)
    return Window(begin, end, shares(before, after, end - begin))


@dataclass(frozen=True, slots=True)
class PacedRun:
    """The measurements of a load at a fixed rate."""

    answers: list[Answer]
    window: Window
    checked: Checked
    rows_before: int
    """Number of rows in the log at the start."""
    rest_after: float
    """Seconds from the last acknowledgement until every server had its score."""


async def run_paced(
    database: DatabaseServer, world: World, *, rate: float, history: int, warm_up: float, seconds: float
) -> PacedRun:
    """Run ingest and a scorer under a load of ``rate`` results per second, with a log of this many hours at the start.

    Raises:
        CannotRun: a requirement is missing, or a process failed.
    """
    async with stage(database) as on:
        say("filling the ledger")
        await asyncio.to_thread(fill, on.engine, world)
        rows = await asyncio.to_thread(add_history, on.engine, history) if history else 0
        before = await on.read(read_before)
        await on.start_worker("ingest")
        await on.start_worker("scorer")
        record = on.site.directory / "record"
        spec = load_spec(on, world.members(), record, rate=rate)
        window = await load_for(on, spec, warm_up, seconds)
        rest_after = await come_to_rest(on)
        return PacedRun(answers(record, window), window, await checked(on, record, before), rows, rest_after)


def answers(record: Path, window: Window) -> list[Answer]:
    """Return the first answers to batches, if they came within ``window``."""
    found = (_answer(history) for history in histories(read_lines(record)).values())
    return [answer for answer in found if answer is not None and window.begin <= answer.at < window.end]


def _answer(history: History) -> Answer | None:
    first = history.answers[0] if history.answers else None
    if first is None or not isinstance(first.ack, BatchCommitted):
        return None
    return Answer(first.at / 1e9, (first.at - history.sent.at) / 1e9, first.ack.stored)


def rate(found: Iterable[Answer], window: Window) -> float:
    """Return results per second."""
    return sum(answer.results for answer in found) / window.seconds


def latencies(found: Iterable[Answer]) -> dict[str, float]:
    """Return percentiles of the latencies of answers, in milliseconds."""
    times = [answer.after * 1e3 for answer in found]
    return {name: round(percentile(times, percent), 1) for name, percent in _PERCENTILES.items()}


_PERCENTILES: Final = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}


async def come_to_rest(stage: Stage) -> float:
    """Wait until no server waits for its score; return the seconds."""
    began = time.monotonic()

    async def scored() -> bool:
        return not await stage.read(lambda connection: SCORING.backlog(connection, utc_now()).due)

    await stage.until(scored, "the end of the scoring", _REST_WITHIN)
    return time.monotonic() - began


async def checked(stage: Stage, record: Path, before: Before | None = None) -> Checked:
    """Run the checker, and return its findings."""
    say("checking that nothing is lost, duplicated or wrong")
    return await asyncio.to_thread(partial(_check, stage, record, before))


def _check(stage: Stage, record: Path, before: Before | None) -> Checked:
    with reading(stage.engine) as connection:
        attempts = read_attempts(connection, record)
    found = check(stage.engine, attempts=attempts, before=before)
    for line in lines(found.differences):
        say(line)
    return found


def differences(name: str, found: Iterable[Checked]) -> Figure:
    """Return the figure that every run must have; if nothing was compared, that counts as a difference, too."""
    runs = list(found)
    first = [str(one) for run in runs for one in run.differences[:3]]
    count = sum(len(one.differences) for one in runs)
    if not runs or not all(one.rows for one in runs):
        count, first = count + 1, [*first, "a run left nothing in the ledger to compare"]
    conditions = {"results": sum(one.rows for one in runs), **({"first": first} if first else {})}
    return Figure(name, count, "differences", at_most=0, conditions=conditions)


def machine_load() -> dict[str, float]:
    """Return how busy the machine was, including other processes."""
    return {"load_average": round(os.getloadavg()[0], 1)}

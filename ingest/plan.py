"""What a group of batches changes in the ledger: a pure function from what is known to what is to be written.

Batches count in the order in which they arrived, results in their order within the batch: each moves the score that
the one before left. A batch that the ledger remembers, or that comes twice in one queue, is answered as it was before
and changes nothing.
"""

import json
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from ingest import validate
from ingest.messages import Submission
from ingest.result_rate import Recent, is_too_soon
from runtime.db.engine import from_db, to_db_seconds
from schema.messages import BatchCommitted, MonitorStatus, PairStatus, Rejection, Result, ResultStored
from scorer.formula import Step, error_of, next_score, step

MAX_ERROR: Final = 200
"""Characters of an error text that are kept."""

MAX_RTT: Final = 2**23 - 1
"""Microseconds that ``log_scores.rtt``, a mediumint, can hold: 8.4 s. What is beyond is cut."""


@dataclass(frozen=True, slots=True)
class StoredMonitor:
    """A row of ``monitors``, as far as it matters here."""

    id: int
    status: MonitorStatus


class StoredPair(msgspec.Struct, frozen=True):
    """A row of ``server_scores``: times are UTC without a zone, as the ledger has them."""

    id: int
    status: PairStatus
    score: float
    score_ts: datetime | None
    stratum: int | None
    ended: datetime | None = None
    """When it was last changed; known of pairs that are not measured now (:func:`ingest.validate.needs_history`)."""


class LogRow(NamedTuple):
    """A new row of ``log_scores``, by the names of its columns."""

    monitor_id: int
    server_id: int
    ts: datetime
    score: float
    step: float
    offset: float | None
    """Seconds."""
    rtt: int
    """Microseconds; 0 without a measurement, as the pool's rows have it: the column's NULL means the same."""
    attributes: str | None
    """JSON."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the ledger answered to a batch."""

    stored: int
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of the monitors, servers, pairs and batches of a group."""

    monitors: Mapping[tuple[str, str], StoredMonitor]
    """By name and protocol."""
    servers: Mapping[int, str]
    """Addresses by id."""
    pairs: Mapping[tuple[int, int], StoredPair]
    """By server and monitor."""
    batches: Mapping[tuple[int, str], Remembered]
    """By monitor and ULID."""
    recent: Mapping[tuple[int, int], Recent] = field(default_factory=dict)
    """By server and monitor, of pairs of which a result may come too soon."""
    stored: Mapping[int, int] = field(default_factory=dict)
    """By server: how often results of it had been stored (:class:`runtime.db.queue.CountingQueue`)."""


@dataclass(slots=True)
class Plan:
    """What is to be written, and what is to be said once it is."""

    acks: list[tuple[Submission, BatchCommitted]] = field(default_factory=list)
    batches: dict[tuple[int, str], Remembered] = field(default_factory=dict)
    """New ones, by monitor and ULID."""
    log_rows: list[LogRow] = field(default_factory=list)
    pairs: dict[tuple[int, int], StoredPair] = field(default_factory=dict)
    """Those that changed, by server and monitor."""
    times: dict[tuple[int, int], list[datetime]] = field(default_factory=dict)
    """In order, of pairs of which a result may come too soon: :attr:`Recent.times` and those stored since."""
    newest: dict[int, tuple[Submission, Result]] = field(default_factory=dict)
    """The last result stored of each server."""
    rejected: Counter[str] = field(default_factory=Counter)
    """New rejections by reason."""
    duplicates: int = 0
    """Batches that had been committed before."""
    monitor_ids: dict[tuple[str, str], int] = field(default_factory=dict)
    """Of the known monitors that submitted, by name and protocol."""

    def events(self) -> list[ResultStored]:
        """One event per server, of its last result."""
        return [self._event(server_id, *last) for server_id, last in self.newest.items()]

    def _event(self, server_id: int, submission: Submission, result: Result) -> ResultStored:
        monitor_id = self.monitor_ids[submission.name, submission.ipv]
        return ResultStored(
            server_id=server_id,
            monitor=submission.name,
            ts=result.ts,
            step=step(result).step,
            score=self.pairs[server_id, monitor_id].score,
            offset=result.offset,
            rtt=result.rtt,
            error=cut(error_of(result)),
        )


def make_plan(known: Known, submissions: Iterable[Submission]) -> Plan:
    """What ``submissions``, in order of arrival, change in a ledger where ``known`` holds."""
    plan = Plan()
    for submission in submissions:
        monitor = known.monitors.get((submission.name, submission.ipv))
        ack = _refuse_all(plan, submission) if monitor is None else _take(plan, known, submission, monitor)
        plan.acks.append((submission, ack))
    # Foreign keys lock the monitors' rows as log rows are inserted: always ascending, so that nobody deadlocks.
    plan.log_rows.sort(key=attrgetter("monitor_id"))
    return plan


def _refuse_all(plan: Plan, submission: Submission) -> BatchCommitted:
    """Of a sender without a row there is nothing to remember a batch by; sent again, it is refused again."""
    rejected = [_rejection(i, r, validate.UNKNOWN_MONITOR) for i, r in enumerate(submission.batch.results)]
    plan.rejected[validate.UNKNOWN_MONITOR] += len(rejected)
    return BatchCommitted(batch=submission.batch.id, stored=0, rejected=rejected)


def _take(plan: Plan, known: Known, submission: Submission, monitor: StoredMonitor) -> BatchCommitted:
    plan.monitor_ids[submission.name, submission.ipv] = monitor.id
    key = (monitor.id, submission.batch.id)
    remembered = known.batches.get(key) or plan.batches.get(key)
    if remembered is not None:
        plan.duplicates += 1
    else:
        remembered = _store(plan, known, submission, monitor)
        plan.batches[key] = remembered
    # Of what it holds now: a batch without results that names an old one must not be answered with its thousand.
    rejected = [each for each in remembered.rejected if each.index < len(submission.batch.results)]
    return BatchCommitted(batch=submission.batch.id, stored=remembered.stored, rejected=rejected)


def _store(plan: Plan, known: Known, submission: Submission, monitor: StoredMonitor) -> Remembered:
    rejected = []
    for index, result in enumerate(submission.batch.results):
        pair_key = (result.server_id, monitor.id)
        pair = plan.pairs.get(pair_key) or known.pairs.get(pair_key)
        reason = _refused(result, submission.arrived, monitor, known.servers.get(result.server_id), pair)
        ts = to_db_seconds(result.ts)
        if reason is None and pair is not None and pair_key in known.recent:
            reason = _keep_pace(plan, known.recent[pair_key], pair_key, pair, ts)
        if reason is None and pair is not None:
            taken = step(result)
            moved = _move(pair, result, taken, ts)
            plan.pairs[pair_key] = moved
            plan.log_rows.append(_log_row(result, monitor.id, ts, taken, moved.score))
            plan.newest[result.server_id] = (submission, result)
        else:
            rejected.append(_rejection(index, result, reason or validate.NO_PAIR))
    plan.rejected.update(each.reason for each in rejected)
    return Remembered(len(submission.batch.results) - len(rejected), tuple(rejected))


def _keep_pace(plan: Plan, recent: Recent, key: tuple[int, int], pair: StoredPair, ts: datetime) -> str | None:
    """Why a result measured at ``ts`` is refused although nothing else is wrong with it; else its time is noted."""
    times = plan.times.setdefault(key, list(recent.times))
    if is_too_soon(ts, pair.score_ts, recent.interval, times):
        return validate.TOO_SOON
    insort(times, ts)
    return None


def _refused(
    result: Result, arrived: datetime, monitor: StoredMonitor, server_ip: str | None, pair: StoredPair | None
) -> str | None:
    reason = (
        validate.monitor_refused(monitor.status)
        or validate.impossible(result, arrived)
        or validate.server_refused(result, server_ip)
    )
    if reason is not None:
        return reason
    if pair is None:
        return validate.NO_PAIR
    if validate.needs_history(monitor.status, pair.status):
        ended = None if pair.ended is None else from_db(pair.ended)
        return None if validate.was_assigned(result, ended) else validate.NOT_ASSIGNED
    return None


def _move(pair: StoredPair, result: Result, taken: Step, ts: datetime) -> StoredPair:
    """The pair after ``result``. A late result counts, but does not turn back the pair's time, nor its stratum."""
    late = pair.score_ts is not None and ts < pair.score_ts
    return StoredPair(
        pair.id,
        pair.status,
        score=next_score(pair.score, taken),
        score_ts=pair.score_ts if late else ts,
        # Without an answer, or with a kiss code, a server has told no stratum: the last one stays.
        stratum=pair.stratum if late or not result.stratum else result.stratum,
        ended=pair.ended,
    )


def _log_row(result: Result, monitor_id: int, ts: datetime, taken: Step, score: float) -> LogRow:
    return LogRow(
        monitor_id,
        result.server_id,
        ts,
        score,
        taken.step,
        offset=None if result.no_response else result.offset,
        rtt=0 if result.no_response else microseconds(result.rtt),
        attributes=_attributes(result.leap, result.stratum, result.no_response, cut(error_of(result))),
    )


def microseconds(rtt: float | None) -> int:
    """A round trip of so many seconds as the ledger has it. One that was measured is never 0, which means none."""
    return 0 if rtt is None else max(1, min(MAX_RTT, round(rtt * 1e6)))


@lru_cache(maxsize=4096)
def _attributes(leap: int | None, stratum: int | None, no_response: bool, error: str | None) -> str | None:
    """JSON, in ASCII since the pool's table may know less than all of Unicode; without what is empty."""
    fields = {"leap": leap, "stratum": stratum, "no_response": no_response or None, "error": error or None}
    kept = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(kept, separators=(",", ":")) if kept else None


def cut(error: str | None) -> str | None:
    """An error text of a length that is kept."""
    return error if error is None or len(error) <= MAX_ERROR else error[: MAX_ERROR - 1] + "…"


def _rejection(index: int, result: Result, reason: str) -> Rejection:
    return Rejection(index=index, server_id=validate.known_id(result.server_id), reason=reason)


def rejections_to_text(rejected: Iterable[Rejection]) -> str | None:
    """Rejections as the ledger keeps them: by reason, since a thousand of them must fit in 64 KiB."""
    by_reason: dict[str, list[tuple[int, int]]] = {}
    for each in rejected:
        by_reason.setdefault(each.reason, []).append((each.index, each.server_id))
    return msgspec.json.encode(by_reason).decode() if by_reason else None


def rejections_from_text(text: str | None) -> tuple[Rejection, ...]:
    """The reverse of :func:`rejections_to_text`."""
    if text is None:
        return ()
    by_reason = msgspec.json.decode(text, type=dict[str, list[tuple[int, int]]])
    rejected = [Rejection(index=i, server_id=s, reason=why) for why, items in by_reason.items() for i, s in items]
    return tuple(sorted(rejected, key=lambda each: each.index))

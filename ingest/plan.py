"""Compute the changes that a group of batches makes to the ledger. Pure: the input is the ledger's known data.

Batches count in the order of arrival, results in their order within the batch; each updates the score that the previous
one left. Batches are idempotent: one that the ledger has already, or that is in the queue twice, gets the same ack
again and changes nothing.
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
from ingest.pair_rate_limit import Recent, is_too_soon
from runtime.db.engine import from_db, to_db_seconds
from schema.messages import BatchCommitted, MonitorStatus, PairStatus, Rejection, Result, ResultStored
from scorer.formula import Step, error_of, next_score, step

MAX_ERROR: Final = 200
"""Maximum stored characters of an error text."""

MAX_RTT: Final = 2**23 - 1
"""Maximum microseconds in ``log_scores.rtt``, a mediumint: 8.4 s. Larger values are capped."""


@dataclass(frozen=True, slots=True)
class StoredMonitor:
    """The fields of a row of ``monitors`` that a plan needs."""

    id: int
    status: MonitorStatus


class StoredPair(msgspec.Struct, frozen=True):
    """A row of ``server_scores``; times are naive UTC, as in the ledger."""

    id: int
    status: PairStatus
    score: float
    score_ts: datetime | None
    stratum: int | None
    ended: datetime | None = None
    """Time of its last change, only for pairs that are not measured now (:func:`ingest.validate.needs_history`)."""


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
    """Microseconds; 0 without a measurement, as in the pool's rows; NULL in the column means the same."""
    attributes: str | None
    """JSON."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The stored outcome of a batch."""

    stored: int
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The ledger's data on the monitors, servers, pairs and batches of a group."""

    monitors: Mapping[tuple[str, str], StoredMonitor]
    """By name and protocol."""
    servers: Mapping[int, str]
    """Addresses by id."""
    pairs: Mapping[tuple[int, int], StoredPair]
    """By server and monitor."""
    batches: Mapping[tuple[int, str], Remembered]
    """By monitor and ULID."""
    recent: Mapping[tuple[int, int], Recent] = field(default_factory=dict)
    """By server and monitor, for pairs with a result that may be too soon."""
    stored: Mapping[int, int] = field(default_factory=dict)
    """Version counters by server, for optimistic locking (:class:`runtime.db.queue.CountingQueue`)."""


@dataclass(slots=True)
class Plan:
    """The rows to write, and the acks and events to send after the commit."""

    acks: list[tuple[Submission, BatchCommitted]] = field(default_factory=list)
    batches: dict[tuple[int, str], Remembered] = field(default_factory=dict)
    """New ones, by monitor and ULID."""
    log_rows: list[LogRow] = field(default_factory=list)
    pairs: dict[tuple[int, int], StoredPair] = field(default_factory=dict)
    """Changed pairs by server and monitor."""
    times: dict[tuple[int, int], list[datetime]] = field(default_factory=dict)
    """Sorted times of pairs with a result that may be too soon: :attr:`Recent.times` and those stored since."""
    newest: dict[int, tuple[Submission, Result]] = field(default_factory=dict)
    """The last stored result of each server."""
    rejected: Counter[str] = field(default_factory=Counter)
    """New rejections by reason."""
    duplicates: int = 0
    """Batches that had been committed before."""
    monitor_ids: dict[tuple[str, str], int] = field(default_factory=dict)
    """Ids of the known monitors that submitted, by name and protocol."""

    def events(self) -> list[ResultStored]:
        """Return one event per server, for its last result."""
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
    """Return the changes of ``submissions``, in order of arrival, to a ledger with the data ``known``."""
    plan = Plan()
    for submission in submissions:
        monitor = known.monitors.get((submission.name, submission.ipv))
        ack = _refuse_all(plan, submission) if monitor is None else _process(plan, known, submission, monitor)
        plan.acks.append((submission, ack))
    # Foreign keys lock the monitors' rows when log rows are inserted; the ascending order avoids deadlocks.
    plan.log_rows.sort(key=attrgetter("monitor_id"))
    return plan


def _refuse_all(plan: Plan, submission: Submission) -> BatchCommitted:
    """Reject a batch of an unknown monitor, without storing its id; if it is sent again, it is rejected again."""
    rejected = [_rejection(i, r, validate.UNKNOWN_MONITOR) for i, r in enumerate(submission.batch.results)]
    plan.rejected[validate.UNKNOWN_MONITOR] += len(rejected)
    return BatchCommitted(batch=submission.batch.id, stored=0, rejected=rejected)


def _process(plan: Plan, known: Known, submission: Submission, monitor: StoredMonitor) -> BatchCommitted:
    plan.monitor_ids[submission.name, submission.ipv] = monitor.id
    key = (monitor.id, submission.batch.id)
    remembered = known.batches.get(key) or plan.batches.get(key)
    if remembered is not None:
        plan.duplicates += 1
    else:
        remembered = _store(plan, known, submission, monitor)
        plan.batches[key] = remembered
    # Only of its own results: an empty batch that reuses an old id must not get an ack with a thousand rejections.
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
            reason = _check_rate(plan, known.recent[pair_key], pair_key, pair, ts)
        if reason is None and pair is not None:
            result_step = step(result)
            moved = _move(pair, result, result_step, ts)
            plan.pairs[pair_key] = moved
            plan.log_rows.append(_log_row(result, monitor.id, ts, result_step, moved.score))
            plan.newest[result.server_id] = (submission, result)
        else:
            rejected.append(_rejection(index, result, reason or validate.NO_PAIR))
    plan.rejected.update(each.reason for each in rejected)
    return Remembered(len(submission.batch.results) - len(rejected), tuple(rejected))


def _check_rate(plan: Plan, recent: Recent, key: tuple[int, int], pair: StoredPair, ts: datetime) -> str | None:
    """Return the reason if a result measured at ``ts`` is too soon; otherwise record its time."""
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


def _move(pair: StoredPair, result: Result, result_step: Step, ts: datetime) -> StoredPair:
    """Return the pair after ``result``. A late result counts, but does not change the pair's time or stratum."""
    late = pair.score_ts is not None and ts < pair.score_ts
    return StoredPair(
        pair.id,
        pair.status,
        score=next_score(pair.score, result_step),
        score_ts=pair.score_ts if late else ts,
        # Without an answer, or with a kiss code, there is no stratum, and the last one stays.
        stratum=pair.stratum if late or not result.stratum else result.stratum,
        ended=pair.ended,
    )


def _log_row(result: Result, monitor_id: int, ts: datetime, result_step: Step, score: float) -> LogRow:
    return LogRow(
        monitor_id,
        result.server_id,
        ts,
        score,
        result_step.step,
        offset=None if result.no_response else result.offset,
        rtt=0 if result.no_response else microseconds(result.rtt),
        attributes=_attributes(result.leap, result.stratum, result.no_response, cut(error_of(result))),
    )


def microseconds(rtt: float | None) -> int:
    """Convert a round-trip time to the ledger's microseconds. A measured one is at least 1, since 0 means none."""
    return 0 if rtt is None else max(1, min(MAX_RTT, round(rtt * 1e6)))


@lru_cache(maxsize=4096)
def _attributes(leap: int | None, stratum: int | None, no_response: bool, error: str | None) -> str | None:
    """Return the non-empty fields as JSON, in ASCII since the character set of the pool's table may be limited."""
    fields = {"leap": leap, "stratum": stratum, "no_response": no_response or None, "error": error or None}
    kept = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(kept, separators=(",", ":")) if kept else None


def cut(error: str | None) -> str | None:
    """Truncate an error text to the maximum stored length."""
    return error if error is None or len(error) <= MAX_ERROR else error[: MAX_ERROR - 1] + "…"


def _rejection(index: int, result: Result, reason: str) -> Rejection:
    return Rejection(index=index, server_id=validate.known_id(result.server_id), reason=reason)


def rejections_to_text(rejected: Iterable[Rejection]) -> str | None:
    """Encode rejections for the ledger, grouped by reason, since a thousand of them must fit in 64 KiB."""
    by_reason: dict[str, list[tuple[int, int]]] = {}
    for each in rejected:
        by_reason.setdefault(each.reason, []).append((each.index, each.server_id))
    return msgspec.json.encode(by_reason).decode() if by_reason else None


def rejections_from_text(text: str | None) -> tuple[Rejection, ...]:
    """Decode the text of :func:`rejections_to_text`."""
    if text is None:
        return ()
    by_reason = msgspec.json.decode(text, type=dict[str, list[tuple[int, int]]])
    rejected = [Rejection(index=i, server_id=s, reason=why) for why, items in by_reason.items() for i, s in items]
    return tuple(sorted(rejected, key=lambda each: each.index))

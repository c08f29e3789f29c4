"""Compare sent batches and their answers with the ledger, batch by batch and row by row.

Every acknowledged result is in the ledger, everything in the ledger was sent, and nothing is there twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ingest.plan import microseconds
from runtime.db.engine import to_db_seconds
from schema.messages import Ack, BatchCommitted, BatchRefused, Rejection, Result
from testbed.checker.difference import Difference, Kind
from testbed.checker.replay import BatchKey, LogRow


@dataclass(frozen=True, slots=True)
class Attempt:
    """A batch that was sent at least once, and its answers."""

    monitor_id: int
    batch: str
    results: Sequence[Result] | None
    """None: it cannot be decoded."""
    answers: Sequence[Ack] = ()
    expected: Mapping[int, str] | None = None
    """For each result that must be rejected, the reason, if known; the others must be stored."""

    @property
    def key(self) -> BatchKey:
        return self.monitor_id, self.batch


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch as the ledger has it."""

    stored: int
    rejected: tuple[Rejection, ...] = ()


_Differ = Callable[[Kind, str], None]

RowKey = tuple[int, int, datetime, float | None, int]
"""Server, monitor, time, offset and rtt, which together identify a measurement."""


def compare_batches(attempts: Iterable[Attempt], stored: Mapping[BatchKey, StoredBatch]) -> list[Difference]:
    """Compare sent batches and their answers with the ledger's batches of the same monitors."""
    found: list[Difference] = []
    sent: set[BatchKey] = set()
    for attempt in attempts:
        sent.add(attempt.key)
        found += _compare(attempt, stored.get(attempt.key))
    found += [_difference("invented", key, "is in the ledger, but was never sent") for key in stored.keys() - sent]
    return found


def _compare(attempt: Attempt, stored: StoredBatch | None) -> list[Difference]:
    found = []

    def differ(kind: Kind, text: str) -> None:
        found.append(_difference(kind, attempt.key, text))

    if any(answer != attempt.answers[0] for answer in attempt.answers):
        differ("contradicted", "received contradicting answers")
    for answer in attempt.answers[:1]:
        _compare_answer(attempt, answer, stored, differ)
    if stored is not None and attempt.results is None:
        differ("contradicted", "is in the ledger, but cannot be decoded")
    elif stored is not None and attempt.results is not None:
        if stored.stored + len(stored.rejected) != len(attempt.results):
            what = f"{stored.stored} stored, {len(stored.rejected)} rejected of {len(attempt.results)} results"
            differ("lost", f"is incomplete in the ledger: {what}")
        rejected = {rejection.index: rejection.reason for rejection in stored.rejected}
        if attempt.expected is not None and rejected != dict(attempt.expected):
            differ("misjudged", f"should have been rejected {dict(attempt.expected)}, not {rejected}")
    return found


def _compare_answer(attempt: Attempt, answer: Ack, stored: StoredBatch | None, differ: _Differ) -> None:
    match answer:
        case BatchCommitted() if stored is None:
            differ("lost", f"was acknowledged with {answer.stored} results, but is not in the ledger")
        case BatchCommitted() if stored is not None:
            if StoredBatch(answer.stored, tuple(answer.rejected)) != stored:
                differ("contradicted", "was acknowledged with other results than the ledger has")
        case BatchRefused() if attempt.results is not None:
            differ("misjudged", f"was refused: {answer.reason}")


def compare_rows(
    attempts: Iterable[Attempt], stored: Mapping[BatchKey, StoredBatch], rows: Iterable[LogRow]
) -> list[Difference]:
    """Compare the results of stored batches with the log rows of the same monitors."""
    wanted: Counter[RowKey] = Counter()
    for attempt in attempts:
        batch = stored.get(attempt.key)
        if batch is not None and attempt.results is not None:
            rejected = {rejection.index for rejection in batch.rejected}
            results = (result for index, result in enumerate(attempt.results) if index not in rejected)
            wanted.update(result_key(attempt.monitor_id, result) for result in results)
    found = []
    for row in rows:
        left = wanted.get(row_key(row))
        if left:
            wanted[row_key(row)] = left - 1
        elif left is None:
            found.append(Difference("invented", f"{row} matches no result that was sent"))
        else:
            found.append(Difference("duplicated", f"{row} exists more often than it was sent"))
    missing = ((key, left) for key, left in wanted.items() if left)
    found += [
        Difference("lost", f"the result of server {s}, monitor {m}, {ts} has no log row")
        for (s, m, ts, _, _), _ in missing
    ]
    return found


def row_key(row: LogRow) -> RowKey:
    """Return a row's key."""
    return row.server_id, row.monitor_id, row.ts, row.offset, row.rtt or 0


def result_key(monitor_id: int, result: Result) -> RowKey:
    """Return the key of the row for ``result``."""
    ts = to_db_seconds(result.ts)
    if result.no_response:
        return result.server_id, monitor_id, ts, None, 0
    return result.server_id, monitor_id, ts, result.offset, microseconds(result.rtt)


def _difference(kind: Kind, key: BatchKey, text: str) -> Difference:
    return Difference(kind, f"batch {key[1]} of monitor {key[0]} {text}")

"""Compare, after a round, what agents and load sent and received with the ledger and the broker."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from bench.faults.journal import Tale, read_journal
from runtime.db.engine import reading
from schema.messages import BatchCommitted
from schema.tables import certificates
from testbed.checker import ledger
from testbed.checker.assignments import Tree
from testbed.checker.batches import Attempt
from testbed.checker.check import check
from testbed.checker.difference import Difference
from testbed.checker.load import read_attempts
from testbed.checker.replay import BatchKey
from testbed.world import ENV


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a round."""

    attempted: int
    """Results put into a spool."""
    acknowledged: int
    """Results whose batch was acknowledged as committed, including rejected ones."""
    stored: int
    """Log rows of monitors."""
    discarded: int
    """Results that agents withdrew deliberately, because their clock was set; also in their counters."""
    differences: tuple[Difference, ...]
    renewals: int = 0
    """Certificates of agents beyond the first of each."""


@dataclass(frozen=True, slots=True)
class Diary:
    """The journal of an agent, and its process's count of measured results."""

    monitor: str
    journal: Path
    measured: int | None = None
    """Results since the start of the current process, without discarded ones; None: not asked."""


@dataclass(slots=True)
class _Known:
    attempts: list[Attempt] = field(default_factory=list)
    must_arrive: list[BatchKey] = field(default_factory=list)
    discarded: int = 0
    differences: list[Difference] = field(default_factory=list)


def judge(engine: Engine, diaries: Iterable[Diary], records: Iterable[Path], tree: Tree) -> Verdict:
    """Compare everything with everything. The system must be at rest.

    Raises:
        sqlalchemy.exc.DBAPIError: the database failed.
    """
    with reading(engine) as connection:
        known = _read(connection, diaries, records)
        stored = ledger.batches(connection)
        renewals = _renewals(connection)
    missing = [key for key in known.must_arrive if key not in stored]
    known.differences += [
        Difference("lost", f"batch {batch} of monitor {monitor} was in a spool, and is not in the ledger")
        for monitor, batch in missing
    ]
    checked = check(engine, attempts=known.attempts, tree=tree, env=ENV)
    return Verdict(
        attempted=sum(len(attempt.results or ()) for attempt in known.attempts),
        acknowledged=sum(_acknowledged(attempt) for attempt in known.attempts),
        stored=checked.rows,
        discarded=known.discarded,
        differences=(*known.differences, *checked.differences),
        renewals=renewals,
    )


def _renewals(connection: Connection) -> int:
    names = certificates.c.name
    counts = sa.select(sa.func.count(names), sa.func.count(names.distinct())).where(certificates.c.kind == "monitor")
    made, of = connection.execute(counts).one()
    return int(made) - int(of)


def _read(connection: Connection, diaries: Iterable[Diary], records: Iterable[Path]) -> _Known:
    ids = {name: monitor_id for (name, _), monitor_id in ledger.monitor_ids(connection).items()}
    known = _Known()
    known.attempts += read_attempts(connection, *records)
    known.must_arrive += [attempt.key for attempt in known.attempts if attempt.results is not None]
    for diary in diaries:
        _add_agent(known, ids, diary, read_journal(diary.journal))
    return known


def _add_agent(known: _Known, ids: Mapping[str, int], diary: Diary, tale: Tale) -> None:
    monitor_id = ids[diary.monitor]
    for story in tale.stories:
        # Results of an honest agent are never rejected.
        attempt = Attempt(monitor_id, story.batch.id, story.batch.results, story.answers, expected={})
        known.attempts.append(attempt)
        if story.left == "withdrawn":
            known.discarded += len(story.batch.results)
        elif story.stored:
            known.must_arrive.append(attempt.key)
        if story.left in ("expired", "put aside"):
            text = f"batch {story.batch.id} of {diary.monitor} was {story.left} by its agent"
            known.differences.append(Difference("lost", text))
    if diary.measured is not None and (kept := tale.kept_by_last_process()) != diary.measured:
        text = f"{diary.monitor} reports {diary.measured} measured results, but its spool received {kept}"
        known.differences.append(Difference("lost" if kept < diary.measured else "invented", text))


def _acknowledged(attempt: Attempt) -> int:
    committed = any(isinstance(answer, BatchCommitted) for answer in attempt.answers)
    return len(attempt.results or ()) if committed else 0

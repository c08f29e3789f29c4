"""Run all comparisons on a system at rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import reading
from runtime.db.system_settings import PoolSettingsReader
from schema.names import Environment
from schema.topics import Topics
from testbed.checker import ledger
from testbed.checker.aggregates import compare_aggregates
from testbed.checker.assignments import Tree, compare_assignments
from testbed.checker.batches import Attempt, compare_batches, compare_rows
from testbed.checker.difference import Difference
from testbed.checker.replay import BatchKey, Pair, Replay


@dataclass(frozen=True, slots=True)
class Before:
    """The ledger before the run; empty by default."""

    last_log_id: int = 0
    scores: Mapping[Pair, float] = field(default_factory=dict)
    """Scores of the pairs."""
    batches: frozenset[BatchKey] = frozenset()
    unknown: bool = False
    """Whether the scores are unknown: each pair's first row is then accepted as it is."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The extent of the check, and the differences found."""

    rows: int
    differences: tuple[Difference, ...]

    @property
    def good(self) -> bool:
        """Whether there are no differences."""
        return not self.differences


def read_before(connection: Connection) -> Before:
    """Read the current ledger, before a run begins."""
    batches = frozenset(ledger.batches(connection))
    return Before(ledger.last_log_id(connection), ledger.pair_scores(connection), batches)


def check(
    engine: Engine,
    *,
    attempts: Sequence[Attempt] | None = None,
    tree: Tree | None = None,
    env: Environment = "devel",
    before: Before | None = None,
) -> Checked:
    """Compare all given data with the ledger.

    Args:
        attempts: all batches that some monitors sent; None: unknown, check only the ledger itself.
        tree: the retained assignments; None: do not check them.
        before: the ledger before these monitors began to send.

    Raises:
        sqlalchemy.exc.DBAPIError: the database failed.
    """
    before = before or Before()
    intervals = PoolSettingsReader(engine).get().monitors
    with reading(engine) as connection:
        replay = Replay(scores=dict(before.scores), trusting=before.unknown)
        replay.all(ledger.log_rows(connection, after=before.last_log_id))
        found = replay.differences + replay.compare_pairs(ledger.pair_scores(connection))
        if attempts is not None:
            found += _compare_attempts(connection, attempts, before)
        found += compare_aggregates(connection, intervals, of=replay.servers if before.last_log_id else None)
        if tree is not None:
            found += compare_assignments(connection, tree, Topics(env), intervals)
    return Checked(replay.rows, tuple(found))


def _compare_attempts(connection: Connection, attempts: Sequence[Attempt], before: Before) -> list[Difference]:
    of = {attempt.monitor_id for attempt in attempts}
    stored = {key: batch for key, batch in ledger.batches(connection, of).items() if key not in before.batches}
    return [
        *compare_batches(attempts, stored),
        *compare_rows(attempts, stored, ledger.log_rows(connection, after=before.last_log_id, of=of)),
    ]

"""Run a round of the scorer: read due servers, compute their scores, and write the changes.

A score is an aggregate of the ledger's rows, so a round is idempotent: a retry, or scoring a server twice, changes
nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import reading, transaction
from runtime.db.queue import REVIEWS, SCORING
from runtime.db.system_settings import Intervals
from schema.limits import CLOCK_AHEAD
from scorer import store
from scorer.model import Score, Scorer, common_stratum
from scorer.policy import Logged, is_alarming, is_news
from scorer.scorers import POOL_SCORER
from scorer.store import Given, ScorerRow, ServerState

_AHEAD: Final = CLOCK_AHEAD + timedelta(seconds=30)
"""Maximum time by which a result may be ahead of now: ingest's limit plus a margin, since workers' clocks differ. A
later result was written with a wrong clock; it counts once its time has come."""


@dataclass(frozen=True, slots=True)
class ServerScored:
    """The score of a server by one scorer."""

    server_id: int
    scorer: str
    ts: datetime
    """Time of the server's newest result, naive UTC."""
    score: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Outcome of one round."""

    found: int = 0
    """Number of due servers that were read."""
    claimed: int = 0
    """Number of those that were processed, including servers without results."""
    scores: tuple[ServerScored, ...] = ()
    logged: int = 0
    """Number of logged scores."""
    alarming: tuple[int, ...] = ()
    """Servers whose score fell so far that they are now due for review."""
    traces: Mapping[int, str] = field(default_factory=dict)
    """Contexts of the traces that go on with the scores, by server."""


@dataclass(frozen=True, slots=True)
class _Computed:
    """A computed score of a server."""

    state: ServerState
    score: Score
    stratum: int | None
    until: datetime
    """Maximum plausible time; later ones were written with a clock that was ahead."""

    def following(self, before: Given | None) -> Given:
        """Return the score that replaces ``before``, at the server's newest result. The time never decreases, unless it
        was in the future."""
        ts, stratum = self.state.newest, self.stratum
        if before is not None:
            stratum = before.stratum if stratum is None else stratum
            if before.ts is not None and before.ts <= self.until:
                ts = max(ts, before.ts)
        return Given(ts, self.score.score, stratum)


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """A scorer's computed and previous scores of some servers."""

    scorer: Scorer
    row: ScorerRow
    computed: Sequence[_Computed]
    before: Mapping[int, Given]
    logged: Mapping[int, Logged]

    def of(self, server_ids: Collection[int]) -> list[_Computed]:
        """Return the computed scores of these servers."""
        return [c for c in self.computed if c.state.id in server_ids]


def score_due(
    engine: Engine,
    scorers: Sequence[Scorer],
    intervals: Intervals,
    now: datetime,
    limit: int,
    *,
    traced: bool = False,
) -> Scored:
    """Score up to ``limit`` servers that are due at ``now`` (naive UTC) and that no other worker has locked.

    Most of the time is spent on reading and computing, without row locks that would block ingest. The score of a server
    is written only if no result of it was stored meanwhile (optimistic locking); otherwise it stays due.

    Args:
        traced: also take the traces that go on with the scores.

    Raises:
        DatabaseUnavailable, sqlalchemy.exc.DBAPIError: nothing was written, or the outcome is unknown; the call may be
            retried.
    """
    with reading(engine) as connection:
        looked = SCORING.look(connection, now, limit)
        verdicts = _judge(connection, scorers, intervals, looked, now + _AHEAD) if looked else []
    if not looked:
        return Scored()
    return transaction(engine, lambda connection: write_scores(connection, looked, verdicts, now, traced=traced))


def _judge(
    connection: Connection,
    scorers: Sequence[Scorer],
    intervals: Intervals,
    server_ids: Collection[int],
    until: datetime,
) -> list[_Verdicts]:
    rows = store.scorer_rows(connection)
    excluded = [row.id for row in rows]
    states = store.server_states(connection, server_ids, excluded, until)
    verdicts = []
    for scorer, row in _at_work(scorers, rows):
        computed = _compute(connection, scorer, states, intervals, excluded, until)
        before = store.scores_of(connection, row.id, [c.state.id for c in computed])
        logged = store.last_logged(connection, row.id, [c.state for c in computed], until)
        verdicts.append(_Verdicts(scorer, row, computed, before, logged))
    return verdicts


def write_scores(
    connection: Connection, looked: Mapping[int, int], verdicts: Sequence[_Verdicts], now: datetime, *, traced: bool
) -> Scored:
    """Write the scores of those servers whose version counter is unchanged since they were read."""
    claimed = SCORING.claim_unchanged(connection, looked, now)
    unchanged = frozenset(claimed)
    scores: list[ServerScored] = []
    alarming: list[int] = []
    logged = 0
    for verdict in verdicts:
        computed = verdict.of(unchanged)
        if verdict.scorer.name == POOL_SCORER:
            alarming = _alarm(connection, computed, verdict.before, now)
            _write_servers(connection, computed)
        _write_pairs(connection, verdict.row.id, computed, verdict.before, now)
        logged += _write_news(connection, verdict.row.id, computed, verdict.logged)
        scores += [ServerScored(c.state.id, verdict.scorer.name, c.state.newest, c.score.score) for c in computed]
    SCORING.done(connection, claimed)
    traces = store.pop_traces(connection, claimed) if traced else {}
    return Scored(len(looked), len(claimed), tuple(scores), logged, tuple(alarming), traces)


def _at_work(scorers: Sequence[Scorer], rows: Sequence[ScorerRow]) -> list[tuple[Scorer, ScorerRow]]:
    """Return each scorer with its row, without paused and deleted ones."""
    live = {row.tls_name: row for row in reversed(rows) if row.status in ("active", "testing")}
    return [(scorer, live[scorer.tls_name]) for scorer in scorers if scorer.tls_name in live]


def _compute(
    connection: Connection,
    scorer: Scorer,
    states: Sequence[ServerState],
    intervals: Intervals,
    excluded: Sequence[int],
    until: datetime,
) -> list[_Computed]:
    """Compute as :meth:`Scorer.compute`, but read the results of a tier only if no earlier tier has decided."""
    computed: list[_Computed] = []
    undecided = {state.id: state for state in states}
    for tier in scorer.tiers(intervals):
        if undecided:
            results = store.tier_results(connection, undecided.values(), tier, excluded, until)
            computed += [
                _Computed(undecided.pop(server_id), scorer.choose(of_server), common_stratum(of_server), until)
                for server_id, of_server in results.items()
            ]
    return computed


def _alarm(
    connection: Connection, computed: Sequence[_Computed], before: Mapping[int, Given], now: datetime
) -> list[int]:
    """Make servers due for review whose score fell. This is the first write for a server, in the order of row locks:
    the selector, too, locks a server's review before its other rows."""
    scored_before = {server_id: given.score for server_id, given in before.items() if given.ts is not None}
    alarming = sorted(
        c.state.id
        for c in computed
        if c.state.id in scored_before and is_alarming(c.score.score, scored_before[c.state.id])
    )
    REVIEWS.add(connection, alarming, now)
    REVIEWS.make_due(connection, alarming, now)
    return alarming


def _write_servers(connection: Connection, computed: Sequence[_Computed]) -> None:
    after = {c.state.id: c.following(c.state.given) for c in computed}
    changed = {c.state.id for c in computed if c.state.given != after[c.state.id]}
    store.write_server_scores(connection, {server_id: after[server_id] for server_id in changed})


def _write_pairs(
    connection: Connection, scorer_id: int, computed: Sequence[_Computed], before: Mapping[int, Given], now: datetime
) -> None:
    after = {c.state.id: c.following(before.get(c.state.id)) for c in computed}
    changed = {server_id: given for server_id, given in after.items() if given != before.get(server_id)}
    store.write_pair_scores(connection, scorer_id, changed, before.keys(), now)


def _write_news(
    connection: Connection, scorer_id: int, computed: Sequence[_Computed], logged: Mapping[int, Logged]
) -> int:
    news = {
        c.state.id: (c.state.newest, c.score)
        for c in computed
        if is_news(c.score.score, c.state.newest, logged.get(c.state.id))
    }
    store.write_log(connection, scorer_id, news)
    return len(news)

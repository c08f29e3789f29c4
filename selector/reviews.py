"""Reviews servers: claims them, reads what is known, lets the rules decide, and writes, all in one transaction.

The claim is the lock on the server's row of ``servers_monitor_review``, so two selectors never review the same server
at once. Nothing here publishes: what changed is returned, for after the commit.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal

from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import to_db, transaction
from runtime.db.queue import REVIEWS
from runtime.db.system_settings import PoolSettings
from selector.rows import BadRow, parse_monitors, parse_server
from selector.rules.model import Change, Rejected, Settings
from selector.rules.review import review
from selector.rules.world import Review
from selector.store import WINDOW, Pair, ReviewInput, read_inputs
from selector.write import write_changes, write_pairs, write_times

log = logging.getLogger(__name__)

BATCH: Final = 10
"""Servers of one transaction: enough to spread the cost of a commit, few enough that nobody waits long for a lock."""

_PRESENT: Final = 0.75

Outcome = Literal["changed", "unchanged", "deleted", "broken", "failed"]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What became of a server's review.

    ``problem`` says why it was not reviewed (``broken``: its own row; ``failed``: a defect of ours, which is logged).
    ``touched`` are the pairs whose assignment may have changed. ``seconds`` the rules took, with the decoding of rows.
    """

    server_id: int
    outcome: Outcome
    changes: tuple[Change, ...] = ()
    names: Mapping[int, str] | None = None
    rejected: tuple[Rejected, ...] = ()
    touched: tuple[Pair, ...] = ()
    problem: str = ""
    seconds: float = 0.0

    def name(self, monitor_id: int) -> str:
        """The full name of a monitor of the review."""
        return (self.names or {}).get(monitor_id, f"monitor {monitor_id}")


@dataclass(frozen=True, slots=True)
class _Judged:
    """A review before it is written; without one, why there is none."""

    reviewed: Reviewed
    review: Review | None = None


def rule_settings(pool: PoolSettings) -> Settings:
    """The numbers of the rules, with the targets that operators set, and results that the intervals in force allow."""
    usual = Settings()
    for_testing = enough_results(pool.monitors.interval_candidate, usual.results_for_testing)
    return Settings(
        target_active=pool.selector.target_active,
        target_testing=pool.selector.target_testing,
        results_for_active=enough_results(pool.monitors.interval_testing, usual.results_for_active),
        results_for_testing=for_testing,
        results_for_active_in_emergency=for_testing,
    )


def enough_results(interval: float, most: int) -> int:
    """Three quarters of the results that a day has at this interval (s), since some are always missing; 1 to ``most``.

    Shorter intervals ask for no more than the usual ones: as much is known of a monitor, only sooner.
    """
    return min(most, max(1, round(_PRESENT * WINDOW.total_seconds() / interval)))


def review_due(engine: Engine, pool: PoolSettings, now: datetime, limit: int = BATCH) -> list[Reviewed]:
    """Reviews up to ``limit`` servers that are due at ``now`` (aware, UTC) and that no other selector holds.

    Raises:
        DatabaseUnavailable: see :func:`runtime.db.engine.transaction`. A review repeated is only made once more.
    """

    def work(connection: Connection) -> list[Reviewed]:
        return _review(connection, REVIEWS.claim(connection, to_db(now), limit), pool, now)

    return transaction(engine, work)


def review_server(engine: Engine, server_id: int, pool: PoolSettings, now: datetime) -> Reviewed | None:
    """Reviews this server whether it is due or not, after any review of it that is under way. None: no such server."""

    def work(connection: Connection) -> Reviewed | None:
        if server_id not in read_inputs(connection, [server_id], now):
            return None
        REVIEWS.hold(connection, [server_id])
        done = _review(connection, [server_id], pool, now)
        return done[0] if done else None

    return transaction(engine, work)


def judge(found: ReviewInput, settings: Settings, now: datetime) -> Review:
    """The pure review of what the ledger has.

    Raises:
        BadRow: the server's own row is broken.
    """
    server = parse_server(found.server_id, found.ip, found.ip_version, found.account_id)
    return review(server, parse_monitors(found.monitors), now, settings)


def _review(connection: Connection, server_ids: Sequence[int], pool: PoolSettings, now: datetime) -> list[Reviewed]:
    if not server_ids:
        return []
    settings, reviews = rule_settings(pool), pool.selector
    inputs = read_inputs(connection, server_ids, now)
    judged = [_judge(inputs.get(server_id), server_id, settings, now) for server_id in server_ids]
    made = [(one.reviewed.server_id, one.review) for one in judged if one.review is not None]
    write_pairs(connection, made)
    write_changes(connection, made, now)
    write = partial(write_times, connection, now=now)
    write(_ids(judged, "changed"), after=timedelta(seconds=reviews.review_changed), changed=True)
    usual = timedelta(seconds=reviews.review_unchanged)
    write(_ids(judged, "unchanged", "broken", "failed"), after=usual, changed=False)
    write(_ids(judged, "deleted"), after=None, changed=False)
    return [one.reviewed for one in judged]


def _ids(judged: Sequence[_Judged], *outcomes: Outcome) -> list[int]:
    return [one.reviewed.server_id for one in judged if one.reviewed.outcome in outcomes]


def _judge(found: ReviewInput | None, server_id: int, settings: Settings, now: datetime) -> _Judged:
    if found is None:  # its row went away; without foreign keys its place in the queue did not
        return _Judged(Reviewed(server_id, "deleted"))
    if found.deleted(now):
        touched = tuple((server_id, monitor.id) for monitor in found.monitors)
        return _Judged(Reviewed(server_id, "deleted", touched=touched))
    began = time.perf_counter()
    try:
        made = judge(found, settings, now)
    except BadRow as bad:
        return _Judged(Reviewed(server_id, "broken", problem=str(bad)))
    except Exception as error:
        # A defect that one server brings to light must not keep all others from being reviewed.
        log.exception("server %d: its review failed", server_id)
        return _Judged(Reviewed(server_id, "failed", problem=f"{type(error).__name__}: {error}"))
    reviewed = Reviewed(
        server_id,
        "changed" if made.changed else "unchanged",
        made.changes,
        {monitor.id: monitor.name for monitor in found.monitors} if made.changed else None,
        made.rejected,
        tuple((server_id, change.monitor_id) for change in made.changes),
        seconds=time.perf_counter() - began,
    )
    return _Judged(reviewed, made)

"""Review servers: claim them, read their input, apply the rules and write the changes in one transaction.

The claim is the row lock on the server's row of ``servers_monitor_review``, so that two selectors never review the same
server at once. This module does not publish; it returns the changes, which are published after the commit.
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
from selector.rules.model import Change, Settings, Skipped
from selector.rules.review import review
from selector.rules.world import Review
from selector.store import WINDOW, Pair, ReviewInput, read_inputs, read_monitor_labels
from selector.write import write_changes, write_pairs, write_times

log = logging.getLogger(__name__)

BATCH: Final = 10
"""Servers per transaction: enough to spread the cost of a commit, few enough to release row locks soon."""

_PRESENT: Final = 0.75

Outcome = Literal["changed", "unchanged", "deleted", "broken", "failed"]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Outcome of a server's review.

    ``problem`` is the reason if the server was not reviewed (``broken``: its own row is invalid; ``failed``: a defect
    of the selector, which is logged). ``touched`` are the pairs whose assignments may have changed. ``seconds`` is the
    duration of the rules, including the decoding of rows.
    """

    server_id: int
    outcome: Outcome
    changes: tuple[Change, ...] = ()
    names: Mapping[int, str] | None = None
    skipped: tuple[Skipped, ...] = ()
    touched: tuple[Pair, ...] = ()
    problem: str = ""
    seconds: float = 0.0

    def name(self, monitor_id: int) -> str:
        """Return the full name of a monitor of the review."""
        return (self.names or {}).get(monitor_id, f"monitor {monitor_id}")


@dataclass(frozen=True, slots=True)
class _Judged:
    """A review before it is written, or the outcome without a review."""

    reviewed: Reviewed
    review: Review | None = None


def rule_settings(pool: PoolSettings) -> Settings:
    """Return the rules' settings, with the operators' targets and the numbers of results that the intervals allow."""
    usual = Settings()
    for_testing = enough_results(pool.monitors.interval_candidate, usual.results_for_testing)
    return Settings(
        target_active=pool.selector.target_active,
        target_testing=pool.selector.target_testing,
        prefer_healthy=bool(pool.selector.prefer_healthy),
        results_for_active=enough_results(pool.monitors.interval_testing, usual.results_for_active),
        results_for_testing=for_testing,
        results_for_active_in_emergency=for_testing,
    )


def enough_results(interval: float, most: int) -> int:
    """Return three quarters of a day's results at this interval (s), since some are always missing; 1 to ``most``.

    Shorter intervals require no more results than the default ones: the same number is sufficient, only sooner.
    """
    return min(most, max(1, round(_PRESENT * WINDOW.total_seconds() / interval)))


def review_due(engine: Engine, pool: PoolSettings, now: datetime, limit: int = BATCH) -> list[Reviewed]:
    """Review up to ``limit`` servers that are due at ``now`` (aware, UTC) and that no other selector has claimed.

    Raises:
        DatabaseUnavailable: see :func:`runtime.db.engine.transaction`. The review can be retried.
    """

    def work(connection: Connection) -> list[Reviewed]:
        return _review(connection, REVIEWS.claim(connection, to_db(now), limit), pool, now)

    return transaction(engine, work)


def review_server(engine: Engine, server_id: int, pool: PoolSettings, now: datetime) -> Reviewed | None:
    """Review this server even if it is not due, after any running review of it; None if there is no such server."""

    def work(connection: Connection) -> Reviewed | None:
        if server_id not in read_inputs(connection, [server_id], now):
            return None
        REVIEWS.hold(connection, [server_id])
        done = _review(connection, [server_id], pool, now)
        return done[0] if done else None

    return transaction(engine, work)


def judge(found: ReviewInput, settings: Settings, now: datetime) -> Review:
    """Apply the rules to the ledger's rows. Pure.

    Raises:
        BadRow: the server's own row is invalid.
    """
    server = parse_server(found.server_id, found.ip, found.ip_version, found.account_id)
    return review(server, parse_monitors(found.monitors), now, settings)


def _review(connection: Connection, server_ids: Sequence[int], pool: PoolSettings, now: datetime) -> list[Reviewed]:
    if not server_ids:
        return []
    settings, reviews = rule_settings(pool), pool.selector
    labels = read_monitor_labels(connection) if settings.prefer_healthy else None
    inputs = read_inputs(connection, server_ids, now, labels)
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
    if found is None:  # its row was removed; without foreign keys its entry in the queue was not
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
        # A defect that one server triggers must not prevent the reviews of all others.
        log.exception("server %d: its review failed", server_id)
        return _Judged(Reviewed(server_id, "failed", problem=f"{type(error).__name__}: {error}"))
    reviewed = Reviewed(
        server_id,
        "changed" if made.changed else "unchanged",
        made.changes,
        {monitor.id: monitor.name for monitor in found.monitors} if made.changed else None,
        made.skipped,
        tuple((server_id, change.monitor_id) for change in made.changes),
        seconds=time.perf_counter() - began,
    )
    return _Judged(reviewed, made)

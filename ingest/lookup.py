"""Read the ledger's data for a group of batches: the monitors, servers, pairs and batch ids that a plan needs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ingest.messages import Submission
from ingest.pair_rate_limit import (
    IntervalOfStatus,
    Recent,
    intervals_of_status,
    may_be_too_soon,
    shortest,
    were_changed,
    windows,
)
from ingest.plan import Known, Remembered, StoredMonitor, StoredPair, rejections_from_text
from ingest.store import read_batches, read_pairs, read_times
from ingest.validate import known_id, needs_history
from runtime.db.engine import to_db_seconds
from runtime.db.system_settings import Intervals
from schema.messages import PairStatus
from schema.tables import assignment_changes, monitors, servers, system_settings

Key = tuple[int, int]
"""Ids of server and monitor."""


def read_monitors(connection: Connection, names: Iterable[str]) -> dict[tuple[str, str], StoredMonitor]:
    """Read the monitors with these names, by name and protocol."""
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.ip_version, m.status)
    rows = connection.execute(query.where(m.tls_name.in_(sorted(names)), m.type == "monitor"))
    return {(row.tls_name, row.ip_version): StoredMonitor(row.id, row.status) for row in rows}


@dataclass(frozen=True, slots=True)
class Lookup:
    """Reader of the ledger's data for the submissions of known monitors."""

    connection: Connection
    senders: Sequence[tuple[Submission, StoredMonitor]]
    intervals: Intervals

    def first(self, by_name: Mapping[tuple[str, str], StoredMonitor], now: datetime) -> Known:
        """Read all of it without row locks."""
        keys = sorted({(r.server_id, m.id) for s, m in self.senders for r in s.batch.results if known_id(r.server_id)})
        pairs, addresses, stored = self._pairs(keys)
        # After the pairs, so that a batch which another worker commits in between is found; one that it commits later
        # changes the version counters of its servers.
        batches = self._batches(self.senders)
        return Known(
            monitors=by_name,
            servers=addresses | self._servers({server_id for server_id, _ in keys} - addresses.keys()),
            pairs=pairs,
            batches=batches,
            recent=self._recent(self._new(batches), pairs, now),
            stored=stored,
        )

    def again(self, known: Known, held: Collection[int], now: datetime) -> Known:
        """Return ``known`` with fresh data of the locked servers and the batches. For all other servers the first read
        is sufficient, since none of their results is stored."""
        batches = {**known.batches, **self._batches(self._new(known.batches))}
        pairs, _, _ = self._pairs(sorted(key for key in known.pairs if key[0] in held))
        recent = self._recent(self._new(batches), pairs, now)
        return replace(
            known,
            batches=batches,
            pairs={key: pair for key, pair in known.pairs.items() if key[0] not in held} | pairs,
            recent={key: some for key, some in known.recent.items() if key[0] not in held} | recent,
        )

    def _new(self, batches: Mapping[tuple[int, str], Remembered]) -> list[tuple[Submission, StoredMonitor]]:
        return [(s, m) for s, m in self.senders if (m.id, s.batch.id) not in batches]

    def _batches(self, of: Iterable[tuple[Submission, StoredMonitor]]) -> dict[tuple[int, str], Remembered]:
        if not (keys := sorted({(m.id, s.batch.id) for s, m in of})):
            return {}
        return {
            (monitor_id, batch): Remembered(stored, rejections_from_text(rejected))
            for monitor_id, batch, stored, rejected in read_batches(self.connection, keys)
        }

    def _servers(self, ids: Iterable[int]) -> dict[int, str]:
        if not (wanted := sorted(ids)):
            return {}
        query = sa.select(servers.c.id, servers.c.ip).where(servers.c.id.in_(wanted))
        return {row.id: row.ip for row in self.connection.execute(query)}

    def _pairs(self, keys: Sequence[Key]) -> tuple[dict[Key, StoredPair], dict[int, str], dict[int, int]]:
        """Read the existing pairs of ``keys``, and the addresses and version counters of their servers."""
        pairs: dict[Key, StoredPair] = {}
        addresses: dict[int, str] = {}
        stored: dict[int, int] = {}
        if not keys:
            return pairs, addresses, stored
        for row in read_pairs(self.connection, keys):
            pair_id, server_id, monitor_id, status, score, score_ts, stratum, ip, times = row
            pairs[server_id, monitor_id] = StoredPair(pair_id, status, score, score_ts, stratum)
            addresses[server_id] = ip
            stored[server_id] = times or 0
        by_id = {m.id: m for _, m in self.senders}
        idle = [key for key, pair in pairs.items() if needs_history(by_id[key[1]].status, pair.status)]
        for key, ended in self._last_changes(idle).items():
            pairs[key] = msgspec.structs.replace(pairs[key], ended=ended)
        return pairs, addresses, stored

    def _last_changes(self, keys: Sequence[Key]) -> dict[Key, datetime]:
        c = assignment_changes.c
        columns = c.server_id, c.monitor_id, sa.func.max(c.changed_on).label("on")
        rows = self._changes(sa.select(*columns).group_by(c.server_id, c.monitor_id), keys)
        return {(row.server_id, row.monitor_id): row.on for row in rows}

    def _changes(self, query: sa.Select[Any], keys: Sequence[Key]) -> Sequence[sa.Row[Any]]:
        if not keys:
            return []
        c = assignment_changes.c
        of_pairs = sa.tuple_(c.monitor_id, c.server_id).in_([(m, s) for s, m in keys])
        return self.connection.execute(query.where(of_pairs)).all()

    # ---- results that may come too soon ----------------------------------------------------------------------------

    def _recent(
        self, new: Iterable[tuple[Submission, StoredMonitor]], pairs: Mapping[Key, StoredPair], now: datetime
    ) -> dict[Key, Recent]:
        """Read the recent times of pairs with a result that may be too soon; usually there is none to read."""
        at = intervals_of_status(self.intervals)
        suspects = _suspects(new, pairs, at)
        if not suspects:
            return {}
        if self._intervals_changed(now):
            at = intervals_of_status(self.intervals, changed=True)
        had = self._statuses([key for key in suspects if at.get(pairs[key].status) != min(at.values())])
        intervals = {key: shortest({pairs[key].status, *had.get(key, ())}, at) for key in suspects}
        wanted = [
            (*key, window.after, window.before)
            for key, moments in suspects.items()
            for window in windows(moments, intervals[key])
        ]
        times: dict[Key, list[datetime]] = {key: [] for key in suspects}
        for server_id, monitor_id, ts in read_times(self.connection, wanted):
            times[server_id, monitor_id].append(ts)
        return {key: Recent(intervals[key], tuple(sorted(found))) for key, found in times.items()}

    def _intervals_changed(self, now: datetime) -> bool:
        c = system_settings.c
        row = self.connection.execute(sa.select(c.created_on, c.modified_on).where(c.key == "monitors")).one_or_none()
        return row is not None and were_changed(row.created_on, row.modified_on, now)

    def _statuses(self, keys: Sequence[Key]) -> dict[Key, set[PairStatus]]:
        """Read the statuses that pairs have had, as far as the ledger has their changes."""
        c = assignment_changes.c
        found: dict[Key, set[PairStatus]] = {}
        query = sa.select(c.server_id, c.monitor_id, c.before_status, c.after_status).distinct()
        for row in self._changes(query, keys):
            found.setdefault((row.server_id, row.monitor_id), set()).update((row.before_status, row.after_status))
        return found


def _suspects(
    new: Iterable[tuple[Submission, StoredMonitor]], pairs: Mapping[Key, StoredPair], at: IntervalOfStatus
) -> dict[Key, list[datetime]]:
    """Return the times of measurement of the results that may be too soon, by pair."""
    newest: dict[Key, datetime | None] = {}
    found: dict[Key, list[datetime]] = {}
    for submission, monitor in new:
        for result in submission.batch.results:
            key = (result.server_id, monitor.id)
            pair = pairs.get(key)
            if pair is None:
                continue
            ts, last = to_db_seconds(result.ts), newest.get(key, pair.score_ts)
            if may_be_too_soon(ts, last, pair.status, at):
                found.setdefault(key, []).append(ts)
            newest[key] = ts if last is None else max(ts, last)
    return found

"""Evaluate the alerts that are in the ledger: read all facts, and write what changed, in one transaction."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from notifier.channels import Channel, read_channels
from notifier.expected import results_due_within
from notifier.health import read_health
from notifier.model import Alert, Fact, Key
from notifier.monitors import monitor_facts, read_agents
from notifier.rules import NO_RESULTS, SERVER_LOW, Evaluation, evaluate
from notifier.servers import LIMITS, ServerRow, read_servers, server_facts
from notifier.store import begin_round, last_results, read_alerts, write_evaluation
from notifier.texts import Links
from runtime.db.system_settings import Intervals


@dataclass(frozen=True, slots=True)
class Terms:
    """What an evaluation depends on, besides the ledger."""

    links: Links
    no_results_for: timedelta
    """The operator's setting; results may be missing for longer where servers are measured less often."""
    intervals: Intervals
    """Of the measurements."""
    settled: bool
    """False while presence may be out of date, since broker or database were away a short time ago."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation, and all channels at its time."""

    evaluation: Evaluation
    channels: tuple[Channel, ...]
    raised: Mapping[str, int]
    """Number of raised alerts by kind, after it."""


def evaluate_ledger(connection: Connection, now: datetime, terms: Terms) -> Evaluated | None:
    """Run one evaluation; return None if another process has one."""
    if not begin_round(connection, now):
        return None
    alerts, channels = read_alerts(connection), read_channels(connection)
    health = read_health(connection)
    agents = read_agents(connection, health)
    facts = [
        *_server_facts(read_servers(connection, now.date()), alerts, now, terms.links),
        *monitor_facts(agents, now, terms.links, settled=terms.settled, labels_current=health.is_current(now)),
        results_fact(
            last_results(connection),
            now,
            results_due_within(connection, now, terms.no_results_for, terms.intervals) if terms.settled else None,
            terms.no_results_for,
        ),
    ]
    found = evaluate(alerts, facts, now)
    write_evaluation(connection, found, channels)
    return Evaluated(found, tuple(channels), raised_after(alerts, found))


def _server_facts(
    rows: Iterable[ServerRow], alerts: Mapping[Key, Alert], now: datetime, links: Links
) -> Iterable[Fact]:
    """Yield the facts about all servers that matter: a good one without an alert changes nothing."""
    alerted = {key.subject for key in alerts if key.kind in LIMITS}
    for row in rows:
        if row.score_raw < LIMITS[SERVER_LOW] or str(row.id) in alerted:
            yield from server_facts(row, now, links)


def results_fact(last: datetime | None, now: datetime, due_within: timedelta | None, no_results_for: timedelta) -> Fact:
    """Return the fact whether results are stored.

    Results count as stored while the newest is younger than ``no_results_for``, and as missing once it is older than
    ``due_within``. Otherwise the fact is unknown: between the two, before the first result, and if ``due_within`` is
    None because no pair has been measured for long enough.
    """
    bad = None
    if last is not None and now - last < no_results_for:
        bad = False
    elif last is not None and due_within is not None and now - last >= due_within:
        bad = True
    return Fact(
        key=Key(NO_RESULTS, ""),
        bad=bad,
        name="Results",
        detail="none were ever stored" if last is None else f"the last results were stored {last:%Y-%m-%d %H:%M} UTC",
        since=last,
    )


def raised_after(alerts: Mapping[Key, Alert], found: Evaluation) -> dict[str, int]:
    """Count the raised alerts by kind, after an evaluation."""
    after = {**alerts, **{one.key: one for one in found.kept}}
    counts: dict[str, int] = {}
    for key, one in after.items():
        if one.raised and key not in found.removed:
            counts[key.kind] = counts.get(key.kind, 0) + 1
    return counts

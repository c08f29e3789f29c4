"""Cases of the alerts of results."""

from typing import Final

from testbed.alerts.case import Case
from testbed.alerts.world import (
    ACTIVE,
    BACKLOG,
    BATCHES,
    DROPPED,
    MINUTES,
    QUEUE_FULL,
    REJECTED,
    REVIEWS,
    SCORED,
    STORED,
    UNREADABLE,
    WAITING,
    T,
    counter,
    gauge,
    gone,
    idle,
    spool,
)

CASES: Final = (
    Case(
        alert="NtppoolNoResults",
        bad=idle(T, 40) | {REVIEWS: counter(30), WAITING: gauge(3, 20_000, T, 40)} | spool(0, gauge(1, 40, T, 45)),
        near={STORED: [float(m // 9) for m in range(MINUTES)], REJECTED: counter(0), ACTIVE: gauge(100)},
        fires=T + 12,
        clears=40,
        says="Ingest has stored 0 results per second in the last ten minutes, although monitors are assigned and "
        "nothing else fails.",
    ),
    Case(  # the counter has no series before its first increment
        alert="NtppoolNoResults",
        bad={STORED: gone(counter(600), T, 40), SCORED: counter(60, 0, T, 40)},
        near={STORED: counter(0), REJECTED: counter(0), SCORED: counter(0), BACKLOG: gauge(0), ACTIVE: gauge(0)},
        note="no counter",
        fires=T + 12,
        clears=41,
        says="Ingest has stored 0 results per second in the last ten minutes, although monitors are assigned and "
        "nothing else fails.",
    ),
    Case(
        alert="NtppoolIngestBehind",
        bad={WAITING: gauge(3, 2001, T, 40), QUEUE_FULL: counter(0, 1000, T, 40)},
        near={WAITING: gauge(3, 2000, T, 40), QUEUE_FULL: counter(0, 1000, T, 40)},
        fires=T + 10,
        clears=40,
        says="2001 results wait for a transaction.",
    ),
    Case(
        alert="NtppoolMessagesDropped",
        bad={DROPPED: counter(0, 6, T, 40)},
        near={DROPPED: counter(0, 2.9, T, 40)},
        labels={"reason": "rate limit exceeded"},
        fires=T + 10,
        clears=44,
        says="It drops 0.10 messages per second; agents send those with results again.",
    ),
    Case(
        alert="NtppoolUndecodable",
        bad={UNREADABLE: counter(0, 2, T, 40)},
        near={UNREADABLE: counter(0, 5, T, 40), BATCHES: counter(600)},
        fires=T + 9,
        clears=50,
        says="It refuses 0.022 messages per second, more than one in a hundred.",
    ),
    Case(  # there are no batches but these
        alert="NtppoolUndecodable",
        bad={UNREADABLE: counter(0, 1, T, T + 6), BATCHES: ["_"] * MINUTES, STORED: counter(600)},
        near={UNREADABLE: counter(0, 1, T, T + 4), BATCHES: ["_"] * MINUTES},
        note="no batches",
        fires=T + 9,
        clears=31,
        says="It refuses 0.007 messages per second, more than one in a hundred.",
    ),
    Case(
        alert="NtppoolResultsRejected",
        bad={REJECTED: counter(1, 60, T, 45)},
        near={REJECTED: counter(1, 30, T, 45)},
        fires=T + 17,
        clears=52,
        says="It rejects 9.091% of all results.",
    ),
)

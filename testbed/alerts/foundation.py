"""Cases of the alerts of what everything depends on."""

from typing import Final

from testbed.alerts.case import Case
from testbed.alerts.world import (
    CONFLICTS,
    CONNECTIONS,
    DEFECTS,
    DUE,
    FAILED,
    LOST,
    MINUTES,
    QUEUE_FULL,
    REPAIRS,
    SERVICES,
    STORED,
    WAITING,
    T,
    check,
    counter,
    failing,
    gauge,
    healthy,
    idle,
    listener,
    of,
    offline,
    transactions,
)

CASES: Final = (
    Case(
        alert="NtppoolDatabaseUnavailable",
        bad=failing("database", T, 40)
        | failing("work", T + 2, 41)
        | idle(T, 40)
        | transactions(counter(60, 0, T, 40), counter(0, 6, T, 40))
        | {FAILED: counter(0, 300, T, 40), DUE: gauge(0, 400, T, 42), QUEUE_FULL: counter(0, 50, T, 40)}
        | {name: gauge(0, 1, T + 1, 41) for name in healthy() if "doubted" in name and "ingest" in name},
        near=failing("database", T, T + 1),
        fires=T + 1,
        clears=40,
        says="Processes with no answer from the database, or only errors, for more than half a minute: 4.",
        after=18,
    ),
    Case(
        alert="NtppoolBrokerUnavailable",
        bad=failing("broker", T, 40)
        | idle(T, 41)
        | offline(10, T, 42)
        | {listener("broker"): gauge(1, 0, T, 40), LOST: counter(0, 2, T, 40), REPAIRS: counter(0, 400, 40, 42)},
        near=failing("broker", T, T + 1),
        fires=T + 1,
        clears=40,
        says="Processes without a connection to the broker for more than half a minute: 4.",
        after=18,
    ),
    Case(
        alert="NtppoolUnreachable",
        bad={listener("broker"): gauge(1, 0, T, 40)} | offline(10, T, 42) | {STORED: counter(600, 0, T, 41)},
        near={listener("broker"): gauge(1, 0, T, T + 2), listener("api"): gauge(1, 0, T, T + 2)},
        labels={"service": "broker"},
        fires=T + 2,
        clears=40,
        says="A TLS connection to the address that agents use fails, or its certificate is not accepted, although the "
        "processes themselves report no failure. The probe returned 0.",
    ),
    Case(
        alert="NtppoolUnreachable",
        bad={listener("api"): gauge(1, 0, T, 30)},
        labels={"service": "api"},
        fires=T + 2,
        clears=30,
        says="A TLS connection to the address that agents use fails, or its certificate is not accepted, although the "
        "processes themselves report no failure. The probe returned 0.",
    ),
    Case(
        alert="NtppoolClockDoubted",
        bad=idle(T, 40)
        | {name: gauge(0, 1, T, 40) for name in healthy() if "clock_doubted" in name}
        | {name: gauge(0, 7, T, 40) for name in healthy() if "clock_ahead" in name},
        near={name: gauge(0, 1, T, T + 2) for name in healthy() if "clock_doubted" in name},
        fires=T + 2,
        clears=40,
        says="Processes that do not trust their clock, and store, score and review nothing: 4.",
        after=18,
    ),
    Case(
        alert="NtppoolClockDrifts",
        bad={of("scorer", "ntppool_clock_ahead_seconds"): gauge(0, -1.2, T, 40)},
        near={of("scorer", "ntppool_clock_ahead_seconds"): gauge(0, -0.99, T, 40)},
        fires=T + 10,
        clears=40,
        says="The clocks of a worker's host and of the database differ by 1.2 s. From 5 s on, nothing is stored.",
    ),
    Case(
        alert="NtppoolWorkStuck",
        bad=failing("work", T, 40, SERVICES[:3]) | idle(T, 40) | {DUE: gauge(0, 400, T, 41)},
        near=failing("work", T, T + 1),
        fires=T + 1,
        clears=40,
        says="Processes whose event loop hangs, or in which one round of work takes longer than two minutes: 3.",
        after=18,
    ),
    Case(
        alert="NtppoolUnstable",
        bad={check("database", "ingest"): [0.0 if m in (15, 25, 35) else 1.0 for m in range(MINUTES)]},
        near={check("database", "ingest"): [0.0 if m in (15, 35) else 1.0 for m in range(MINUTES)]},
        fires=36,
        clears=75,
        says="Within an hour, their state has changed 6 times.",
    ),
    Case(
        alert="NtppoolDatabaseSlow",
        bad=transactions(counter(60, 0, T, 40), counter(0, 60, T, 40)) | {WAITING: gauge(3, 9000, T, 40)},
        near=transactions(counter(60, 55, T, 40), counter(0, 5, T, 40)),
        fires=T + 6,
        clears=48,
        says="A tenth of ingest's transactions take longer than 4.6 s. Agents send a batch again after 10 s without an "
        "answer.",
    ),
    Case(
        alert="NtppoolDatabaseErrors",
        bad={DEFECTS: counter(0, 1, T, 40)},
        near={DEFECTS: counter(0, 1, T, T + 2)},
        fires=T + 7,
        clears=52,
        says="It has refused 8 within a quarter of an hour, not because of a conflict.",
    ),
    Case(
        alert="NtppoolDatabaseConflicts",
        bad={CONFLICTS: counter(0.1, 120, T, 45)},
        near={CONFLICTS: counter(0.1, 59, T, 45)},
        fires=T + 14,
        clears=50,
        says="2.0 transactions per second are tried again after a conflict.",
    ),
    Case(
        alert="NtppoolBrokerReconnects",
        bad={CONNECTIONS: [1.0 + max(0, min(minute - T, 8)) for minute in range(MINUTES)]},
        near={CONNECTIONS: [1.0 + max(0, min(minute - T, 4)) for minute in range(MINUTES)]},
        fires=T + 6,
        clears=49,
        says="One of them has connected 6 times within half an hour.",
    ),
)

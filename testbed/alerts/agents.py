"""Cases of the alerts of agents."""

from typing import Final

from testbed.alerts.case import Case
from testbed.alerts.world import (
    ACTIVE,
    MINUTES,
    REVIEWS,
    TESTING,
    T,
    counter,
    drifting,
    gauge,
    idle,
    not_probing,
    offline,
    spool,
    without,
    without_protocol,
    wrong_clocks,
)

CASES: Final = (
    Case(
        alert="NtppoolAgentsNotWatched",
        bad=without(0, 40, 'job="ntppool-agents"'),
        near=without(0, 40, 'job="ntppool-agents"') | {ACTIVE: gauge(0), TESTING: gauge(0)},
        fires=15,
        clears=40,
        says="No agent has answered Prometheus for a day, although 160 pairs are to be measured.",
    ),
    Case(
        alert="NtppoolAgentsOffline",
        bad=offline(3, T, 50) | {ACTIVE: gauge(100, 70, T + 15, 100)},
        near=offline(2, T, 50),
        note="some",
        fires=T + 10,
        clears=50,
        says="30% of those that have answered within a day do not any more.",
    ),
    Case(
        alert="NtppoolAgentsOffline",
        bad=offline(10, T, 50) | idle(T, 50) | {REVIEWS: counter(30), ACTIVE: gauge(100, 0, T + 15, 100)},
        note="all",
        fires=T + 10,
        clears=50,
        says="100% of those that have answered within a day do not any more.",
    ),
    Case(
        alert="NtppoolAgentsClocksWrong",
        bad=wrong_clocks(4, T, 80),
        near=wrong_clocks(1, T, 80),
        fires=45,
        clears=94,
        says="40% of the agents fail most of their clock checks, and do not probe.",
    ),
    Case(
        alert="NtppoolAgentsClocksDrift",
        bad=drifting(3, -0.0051, T, 60),
        near=drifting(2, -0.0051, T, 60),
        fires=T + 30,
        clears=60,
        says="30% of the agents differ by more than 5 ms; from 10 ms on they do not probe.",
    ),
    Case(  # there is no series of a protocol that a monitor does not have
        alert="NtppoolAgentsNotProbing",
        bad=without_protocol(3, T, 60),
        near=without_protocol(2, T, 60),
        note="none configured",
        fires=T + 30,
        clears=60,
        says="30% of the agents do not probe, for other reasons than their clocks.",
    ),
    Case(
        alert="NtppoolAgentsNotProbing",
        bad=not_probing(3, T, 60),
        near=not_probing(2, T, 60),
        fires=T + 30,
        clears=60,
        says="30% of the agents do not probe, for other reasons than their clocks.",
    ),
    Case(
        alert="NtppoolSpoolsGrow",
        bad=spool(0, gauge(1, 21, T, 60)),
        near=spool(0, gauge(1, 20, T, 60)) | spool(1, [float(max(1, 2000 - 20 * m)) for m in range(MINUTES)]),
        fires=T + 30,
        clears=60,
        says="Monitors whose spools have held more than 20 batches for a quarter of an hour, and do not "
        "shrink, although ingest stores results of others: 1.",
    ),
)

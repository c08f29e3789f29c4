"""Cases of the alerts of scores and reviews."""

from typing import Final

from testbed.alerts.case import Case
from testbed.alerts.world import (
    ACTIVE,
    BACKLOG,
    BAD_ROWS,
    DUE,
    LOST,
    MINUTES,
    REPAIRS,
    REVIEWS,
    SCORED,
    T,
    counter,
    gauge,
)

CASES: Final = (
    Case(
        alert="NtppoolScorerStalled",
        bad={SCORED: counter(60, 0, T, 40)},
        near={SCORED: [float(m // 9) for m in range(MINUTES)], BACKLOG: gauge(0)},
        fires=T + 14,
        clears=40,
        says="0 servers per second were scored in the last ten minutes, although results arrive.",
    ),
    Case(
        alert="NtppoolScorerBehind",
        bad={BACKLOG: gauge(0, 130, T, 40)},
        near={BACKLOG: gauge(0, 119, T, 40)},
        fires=T + 10,
        clears=40,
        says="At its present speed it needs 2m 10s for the servers that wait.",
    ),
    Case(
        alert="NtppoolSelectorStalled",
        bad={DUE: gauge(0, 5, T, 40), REVIEWS: counter(30, 0, T, 40)},
        near={DUE: gauge(0, 5, T, 40)},
        fires=T + 15,
        clears=40,
        says="5 servers or more have been due for ten minutes, and none was reviewed.",
    ),
    Case(
        alert="NtppoolSelectorBehind",
        bad={DUE: gauge(0, 500, T, 40)},
        near={DUE: gauge(0, 440, T, 40)},
        fires=T + 10,
        clears=40,
        says="At its present speed it needs 16m 40s for the servers that are due.",
    ),
    Case(
        alert="NtppoolAssignmentsLost",
        bad={LOST: counter(0, 1, T, 40)},
        near={LOST: counter(0, 50, T, T + 1)},
        fires=T + 10,
        clears=49,
        says="0.017 assignments per second stay without an acknowledgement, although the selector is connected.",
    ),
    Case(
        alert="NtppoolAssignmentsDrift",
        bad={REPAIRS: counter(0, 2, T, 60)},
        near={REPAIRS: counter(0, 480, T, T + 2)},
        fires=T + 35,
        clears=69,
        says="30 were repaired within a quarter of an hour.",
    ),
    Case(
        alert="NtppoolRowsSkipped",
        bad={BAD_ROWS: counter(0, 1, T, T + 1)},
        labels={"kind": "pair"},
        fires=T + 15,
        clears=75,
        says="It has met such rows 0.0003 times per second within an hour.",
    ),
    Case(
        alert="NtppoolActivePairsFell",
        bad={ACTIVE: gauge(100, 79, T, 60)},
        near={ACTIVE: gauge(100, 81, T, 60)},
        fires=T + 15,
        clears=60,
        says="79% of the active pairs of the last three hours are left.",
    ),
)

"""Cases of the alerts of processes, and of Prometheus itself."""

from typing import Final

from testbed.alerts.case import Case
from testbed.alerts.world import ACTIVE, SERVICES, T, down, gauge, gone, idle, listener, of, silent, spool, without

CASES: Final = (
    Case(
        alert="NtppoolAllDown",
        bad={name: values for service in SERVICES for name, values in down(service, T, 30).items()}
        | {listener("broker"): gauge(1, 0, T, 30), listener("api"): gauge(1, 0, T, 30)}
        | silent(10, T, 32),
        near={name: values for service in SERVICES for name, values in down(service, T, T + 2).items()},
        fires=T + 2,
        clears=30,
        says="Prometheus reaches no ingest, scorer, selector or API.",
        after=18,
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("ingest", T, 40) | idle(T, 40) | {ACTIVE: gauge(100)} | spool(0, gauge(1, 40, T, 45)),
        near=down("scorer", T, T + 2),
        labels={"service": "ingest"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind ingest.",
        after=18,
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("scorer", T, 40),
        labels={"service": "scorer"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind scorer.",
    ),
    Case(  # it crashes three times, and is not started any more
        alert="NtppoolServiceDown",
        bad=down("scorer", T, 50)
        | {of("scorer", "process_start_time_seconds"): gone([*gauge(1)[:12], 2.0, 3.0, *gauge(4)[14:]], T, 50)},
        note="crashes",
        labels={"service": "scorer"},
        fires=T + 2,
        clears=50,
        says="Prometheus reaches 0 processes of the kind scorer.",
        before={"NtppoolRestarts": (15, T + 2)},
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("selector", T, 40),
        labels={"service": "selector"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind selector.",
    ),
    Case(
        alert="NtppoolServiceDown",
        bad=down("api", T, 40) | {listener("api"): gauge(1, 0, T, 40)} | silent(10, T, 42),
        labels={"service": "api"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind api.",
    ),
    Case(  # a kind that is in no list of targets
        alert="NtppoolServiceDown",
        bad=without(T, 40, 'service="scorer"'),
        note="not a target",
        labels={"service": "scorer"},
        fires=T + 2,
        clears=40,
        says="Prometheus reaches 0 processes of the kind scorer.",
    ),
    Case(
        alert="NtppoolProcessDown",
        bad={of("ingest", "up", 2): gauge(1, 0, T, 30)},
        near={of("ingest", "up", 2): gauge(1, 0, T, T + 5)},
        labels={"service": "ingest"},
        fires=T + 5,
        clears=30,
        says="Processes of the kind ingest that cannot be reached: 1. Others do their work.",
    ),
    Case(
        alert="NtppoolRestarts",
        bad={of("api", "process_start_time_seconds"): [*gauge(1)[:T], *[2.0] * 3, *[3.0] * 3, *gauge(4)[T + 6 :]]},
        near={of("api", "process_start_time_seconds"): [*gauge(1)[:T], *[2.0] * 3, *gauge(3)[T + 3 :]]},
        labels={"service": "api"},
        fires=T + 7,
        clears=T + 30,
        says="It has started 3 times within half an hour.",
    ),
)

BLIND: Final = (
    Case(
        alert="NtppoolNotWatched",
        bad=without(T, 40, 'job="ntppool"'),
        labels={"job": "ntppool"},
        fires=T + 5,
        clears=40,
        says="Prometheus has no target in the job ntppool, so every other alert is silent.",
    ),
    Case(
        alert="NtppoolProbesMissing",
        bad=without(T, 40, "probe_"),
        fires=T + 5,
        clears=40,
        says="Environments in which the blackbox exporter yields no result for /healthz or for the TLS "
        "listeners: 1. Failures of their databases and brokers, and certificates that end, are not reported.",
    ),
)
"""What makes Prometheus itself blind; these alerts are for all environments."""

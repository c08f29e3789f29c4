"""Test which labels of a monitor's health raise and clear alerts, and that people are never told twice of one thing."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from notifier.health import CURRENT_FOR, Health
from notifier.model import Alert, Fact, Key
from notifier.monitors import Agent, MonitorRow, agent_of, monitor_facts
from notifier.rules import KINDS, MONITOR_CLOCK, MONITOR_OFFLINE, MONITOR_UNHEALTHY, evaluate
from notifier.texts import Links
from runtime.db.monitor_health import HeldLabel
from schema.health import HealthLabel
from schema.messages import ProtocolState, Status, encode

NOW = datetime(2026, 1, 9, 12, 0, 0)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
LINKS = Links(None, "https://api.pool.example")
CLOCK = "local clock check failed at 3 of 3"
V4, V6 = 1, 2
"""Ids of the monitors."""

Labels = dict[int, Sequence[HealthLabel]]
Seen = dict[str, bool | None]

LOSES, OFF, FLAKY = HealthLabel.LOSES_PACKETS, HealthLabel.CLOCK_OFF, HealthLabel.V6_FLAKY


def health(labels: Labels, counted_until: datetime | None) -> Health:
    return Health(
        {
            monitor: tuple(HeldLabel(one, NOW.replace(tzinfo=UTC) - HOUR, f"says {one.value}", {}) for one in held)
            for monitor, held in labels.items()
        },
        counted_until,
    )


def agent(found: Health, why_not: str | None = None, *, gone: bool = False) -> Agent:
    state = ProtocolState(status="active", probing=why_not is None, assignments=3, assignments_hash="", why_not=why_not)
    said = encode(Status(online=True, protocols={"v4": state, "v6": state})).decode()
    seen = NOW - HOUR * gone
    return agent_of(
        "m",
        [MonitorRow(n, "m", ipv, 5, None, NOW, True, NOW, seen, said) for n, ipv in ((V4, "v4"), (V6, "v6"))],
        found,
    )


def facts(
    labels: Labels, why_not: str | None = None, *, gone: bool = False, counted: datetime | None = NOW - HOUR
) -> dict[str, Fact]:
    found = health(labels, counted)
    one = agent(found, why_not, gone=gone)
    current = found.is_current(NOW)
    return {fact.key.kind: fact for fact in monitor_facts([one], NOW, LINKS, settled=True, labels_current=current)}


def bad(found: dict[str, Fact]) -> tuple[bool | None, bool | None]:
    """Return whether its clock is wrong, and whether it is unhealthy."""
    return found[MONITOR_CLOCK].bad, found[MONITOR_UNHEALTHY].bad


@pytest.mark.parametrize(
    ("label", "clock", "unhealthy"),
    [
        (HealthLabel.LOSES_PACKETS, False, True),
        (HealthLabel.V4_FLAKY, False, True),
        (HealthLabel.V6_FLAKY, False, True),
        (HealthLabel.CLOCK_OFF, True, None),
        (HealthLabel.NOT_PROBING, False, False),
        (HealthLabel.OFFLINE_OFTEN, False, False),
        (HealthLabel.FAR_FROM_ALL, False, False),
        (HealthLabel.STABLE_1D, False, False),
        (HealthLabel.STABLE_30D, False, False),
        (HealthLabel.CLOCK_GOOD, False, False),
    ],
)
def test_labels_that_people_are_told_about(label: HealthLabel, clock: bool, unhealthy: bool | None) -> None:
    assert bad(facts({V6: [label]})) == (clock, unhealthy)


def test_every_label_is_considered() -> None:
    [table] = [mark.args[1] for mark in test_labels_that_people_are_told_about.pytestmark]  # type: ignore[attr-defined]
    assert {row[0] for row in table} == set(HealthLabel)


def test_the_alert_has_the_reasons_of_the_labels_and_their_time() -> None:
    found = facts({V4: [LOSES], V6: [LOSES, FLAKY, HealthLabel.STABLE_1D]})[MONITOR_UNHEALTHY]
    assert found.detail == "IPv4: says loses-packets; IPv6: says loses-packets; IPv6: says v6-flaky"
    assert found.since == NOW - HOUR
    assert facts({V4: [OFF]})[MONITOR_CLOCK].detail == "IPv4: says clock-off"


def test_what_the_agent_says_itself_comes_first() -> None:
    found = facts({V4: [LOSES]}, "disk full")[MONITOR_UNHEALTHY]
    assert (found.detail, found.since) == ("does not probe: disk full", None)
    assert facts({V4: [OFF]}, CLOCK)[MONITOR_CLOCK].detail == CLOCK


_ANY_LABELS = [{V4: first, V6: second} for first, second in product(([], [LOSES], [OFF], [LOSES, OFF]), ([], [FLAKY]))]


@pytest.mark.parametrize("labels", _ANY_LABELS)
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("why_not", [None, CLOCK, "disk full"])
@pytest.mark.parametrize("counted", [None, NOW - HOUR, NOW - CURRENT_FOR])
def test_of_one_monitor_one_thing_is_told(
    labels: Labels, gone: bool, why_not: str | None, counted: datetime | None
) -> None:
    found = facts(labels, why_not, gone=gone, counted=counted)
    assert [fact.bad for fact in found.values()].count(True) <= 1
    if gone:
        assert (found[MONITOR_OFFLINE].bad, *bad(found)) == (True, None, None)


@pytest.mark.parametrize("counted", [None, NOW - CURRENT_FOR, NOW + CURRENT_FOR])
@pytest.mark.parametrize(
    ("labels", "why_not", "expected"),
    [
        ({V4: [LOSES]}, None, (False, None)),
        ({V4: [OFF]}, None, (None, False)),
        ({V4: [LOSES, OFF]}, None, (None, None)),
        ({V4: [LOSES]}, "disk full", (False, True)),
        ({V4: [OFF]}, CLOCK, (True, None)),
        ({}, None, (False, False)),
    ],
)
def test_old_labels_neither_raise_nor_clear(
    counted: datetime | None, labels: Labels, why_not: str | None, expected: tuple[bool | None, bool | None]
) -> None:
    assert bad(facts(labels, why_not, counted=counted)) == expected


# ---- over time -----------------------------------------------------------------------------------------------------


def told(*periods: tuple[int, Labels, str | None, bool]) -> list[tuple[float, str, bool]]:
    """Evaluate every minute; return the hours and changes.

    Args:
        periods: hours, labels, what the agent says, and whether the labels are judged.
    """
    alerts: dict[Key, Alert] = {}
    said: list[tuple[float, str, bool]] = []
    moment = NOW
    for hours, labels, why_not, judged in periods:
        one = agent(health(labels, None), why_not)
        for _ in range(hours * 60):
            # The agent is always present, and so is what it says.
            present = agent_at(one, moment)
            given = monitor_facts([present], moment, LINKS, settled=True, labels_current=judged)
            found = evaluate(alerts, given, moment)
            alerts = {key: alert for key, alert in alerts.items() if key not in found.removed}
            alerts |= {alert.key: alert for alert in found.kept}
            said += [((moment - NOW) / HOUR, change.key.kind, change.raised) for change in found.changes]
            moment += MINUTE
    return said


def agent_at(one: Agent, moment: datetime) -> Agent:
    return Agent(
        one.name, one.account_id, moment, one.states, moment, one.online_since, one.clock_label, one.work_label
    )


def test_a_label_is_raised_once_and_cleared_once() -> None:
    assert told((5, {V4: [LOSES]}, None, True), (5, {}, None, True)) == [
        (0.5, MONITOR_UNHEALTHY, True),
        (5.5, MONITOR_UNHEALTHY, False),
    ]


def test_another_label_of_an_unhealthy_monitor_is_not_told_again() -> None:
    assert told((3, {V4: [LOSES]}, None, True), (3, {V6: [FLAKY]}, None, True), (3, {V4: [LOSES]}, "full", True)) == [
        (0.5, MONITOR_UNHEALTHY, True)
    ]


def test_a_clock_that_is_off_by_its_label_and_by_the_agents_check_is_one_alert() -> None:
    labels = {V4: [OFF]}
    assert told((2, labels, None, True), (2, labels, CLOCK, True), (2, labels, None, True), (2, {}, None, True)) == [
        (KINDS[MONITOR_CLOCK].raise_after / HOUR, MONITOR_CLOCK, True),
        (6.25, MONITOR_CLOCK, False),
    ]


def test_while_the_job_does_not_run_nothing_begins_and_nothing_ends() -> None:
    assert told((5, {V4: [LOSES, OFF]}, None, False)) == []
    assert told((1, {V4: [LOSES]}, None, True), (5, {V4: [LOSES]}, None, False)) == [(0.5, MONITOR_UNHEALTHY, True)]


def test_an_alert_for_another_reason_ends_without_the_job() -> None:
    assert told((1, {}, "disk full", False), (1, {}, None, False)) == [
        (0.5, MONITOR_UNHEALTHY, True),
        (1.5, MONITOR_UNHEALTHY, False),
    ]

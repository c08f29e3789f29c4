"""Test what counts as trouble of servers, monitors and the whole pool."""

from datetime import datetime, timedelta

import pytest

from notifier.evaluation import results_fact
from notifier.health import Health
from notifier.model import Fact, moment
from notifier.monitors import Agent, MonitorRow, agent_of, idle, monitor_facts
from notifier.rules import (
    MONITOR_CLOCK,
    MONITOR_OFFLINE,
    MONITOR_UNHEALTHY,
    MONITORS_AWAY,
    SERVER_LOW,
    SERVER_VERY_LOW,
)
from notifier.servers import ServerRow, server_facts
from notifier.texts import Links
from schema.messages import ProtocolState, Status, encode

NOW = datetime(2026, 1, 9, 12, 0, 0)
LINKS = Links("https://pool.example/scores/{ip}", "https://api.pool.example")
CLOCK = "local clock check failed at 3 of 3: 192.0.2.1 offset +12.000 ms"


# ---- servers -------------------------------------------------------------------------------------------------------


def server(score: float, *, days: float = 30, scored: bool = True, hostname: str | None = None) -> dict[str, Fact]:
    row = ServerRow(
        id=7,
        ip="192.0.2.7",
        hostname=hostname,
        account_id=3,
        score_ts=NOW if scored else None,
        score_raw=score,
        created_on=NOW - timedelta(days=days),
    )
    return {fact.key.kind: fact for fact in server_facts(row, NOW, LINKS)}


@pytest.mark.parametrize(
    ("score", "low", "very_low"),
    [(20.0, False, False), (10.0, False, False), (9.99, True, False), (-15.0, True, False), (-15.01, True, True)],
)
def test_limits_of_scores(score: float, low: bool, very_low: bool) -> None:
    facts = server(score)
    assert (facts[SERVER_LOW].bad, facts[SERVER_VERY_LOW].bad) == (low, very_low)


def test_a_server_that_is_new_or_was_never_scored_is_not_judged() -> None:
    assert {fact.bad for fact in server(0.0, days=1.9).values()} == {None}
    assert {fact.bad for fact in server(0.0, scored=False).values()} == {None}
    assert {fact.bad for fact in server(11.0, days=1).values()} == {False}


def test_a_time_that_is_invalid_in_the_ledger_disturbs_nothing() -> None:
    row = ServerRow(7, "192.0.2.7", None, None, NOW, 3.0, None)
    assert [fact.bad for fact in server_facts(row, NOW, LINKS)] == [True, False]
    assert moment("0000-00-00 00:00:00") is None
    assert moment(NOW) == NOW


def test_the_name_of_a_server_is_harmless() -> None:
    fact = server(3.0, hostname="ntp<script>.example")[SERVER_LOW]
    assert fact.name == "192.0.2.7 (ntp?script?.example)"
    assert (fact.key.subject, fact.account_id, fact.link) == ("7", 3, "https://pool.example/scores/192.0.2.7")
    assert fact.detail == "score 3.0, computed 2026-01-09 12:00 UTC"


# ---- monitors ------------------------------------------------------------------------------------------------------


def state(why_not: str | None = None, assignments: int = 3) -> ProtocolState:
    return ProtocolState(
        status="active", probing=why_not is None, assignments=assignments, assignments_hash="", why_not=why_not
    )


def agent(
    name: str = "m",
    *,
    present: datetime | None = NOW,
    why_not: str | None = None,
    last_submit: datetime | None = NOW,
    assignments: int = 3,
) -> Agent:
    states = (state(assignments=assignments), state(why_not, assignments))
    return Agent(name=name, account_id=5, present=present, states=states, last_submit=last_submit)


def facts(*agents: Agent, settled: bool = True) -> dict[str, dict[str, bool | None]]:
    found: dict[str, dict[str, bool | None]] = {}
    for fact in monitor_facts(agents, NOW, LINKS, settled=settled, labels_current=True):
        found.setdefault(fact.key.subject, {})[fact.key.kind] = fact.bad
    return found


def test_a_monitor_that_works() -> None:
    expected = {MONITOR_OFFLINE: False, MONITOR_CLOCK: False, MONITOR_UNHEALTHY: False}
    assert facts(agent()) == {"": {MONITORS_AWAY: False}, "m": expected}


def test_a_monitor_is_offline_after_15_minutes_and_nothing_else_is_known_of_it() -> None:
    gone = agent(present=NOW - timedelta(minutes=15), why_not=CLOCK)
    assert facts(gone)["m"] == {MONITOR_OFFLINE: True, MONITOR_CLOCK: None, MONITOR_UNHEALTHY: None}
    assert facts(agent(present=NOW - timedelta(minutes=14)))["m"][MONITOR_OFFLINE] is False


def test_a_monitor_that_was_never_there_is_not_judged() -> None:
    assert set(facts(agent(present=None))["m"].values()) == {None}


def test_a_wrong_clock_is_no_other_trouble() -> None:
    found = facts(agent(why_not=CLOCK))["m"]
    assert found == {MONITOR_OFFLINE: False, MONITOR_CLOCK: True, MONITOR_UNHEALTHY: None}


def test_a_wrong_clock_is_the_reason_why_no_results_are_stored() -> None:
    found = facts(agent(why_not=CLOCK, last_submit=NOW - timedelta(hours=7)))["m"]
    assert (found[MONITOR_CLOCK], found[MONITOR_UNHEALTHY]) == (True, None)


def test_a_monitor_that_does_not_probe_or_whose_results_are_not_stored_is_unhealthy() -> None:
    assert idle(agent(why_not="disk full"), NOW) == "does not probe: disk full"
    assert idle(agent(last_submit=NOW - timedelta(hours=6)), NOW) == (
        "no results were stored since 2026-01-09 06:00 UTC"
    )
    assert idle(agent(last_submit=NOW - timedelta(hours=6), assignments=0), NOW) is None
    assert idle(agent(last_submit=None), NOW) is None


@pytest.mark.parametrize(("minutes", "is_idle"), [(149, False), (150, True)])
def test_an_agent_that_came_back_has_time_for_its_first_results(minutes: int, is_idle: bool) -> None:
    back = row(online=True, since=NOW - timedelta(minutes=minutes), last_submit=NOW - timedelta(hours=7))
    assert (idle(an_agent(back), NOW) is not None) is is_idle


def test_if_half_of_the_monitors_are_gone_only_operators_are_told() -> None:
    old = NOW - timedelta(hours=1)
    found = facts(agent("a", present=old), agent("b", present=old), agent("c"), agent("d"))
    assert found[""] == {MONITORS_AWAY: True}
    assert {bad for name in "abcd" for bad in found[name].values()} == {None}
    found = facts(agent("a", present=old), agent("b"), agent("c"), agent("d"))
    assert (found[""], found["a"][MONITOR_OFFLINE]) == ({MONITORS_AWAY: False}, True)


def test_of_a_few_monitors_no_share_tells_anything() -> None:
    found = facts(agent("a", present=NOW - timedelta(hours=1)))
    assert (found[""], found["a"][MONITOR_OFFLINE]) == ({MONITORS_AWAY: False}, True)


def test_nothing_is_known_while_presence_may_be_out_of_date() -> None:
    found = facts(*(agent(name, present=NOW - timedelta(hours=1)) for name in "abcd"), settled=False)
    assert {bad for kinds in found.values() for bad in kinds.values()} == {None}


def row(ipv: str = "v4", **fields: object) -> MonitorRow:
    said = encode(Status(online=True, protocols={"v4": state(), "v6": state("disk full")})).decode()
    given = {
        "id": 1,
        "last_seen": None,
        "last_submit": None,
        "online": True,
        "since": NOW - timedelta(hours=2),
        "seen": NOW,
    }
    return MonitorRow(**({"tls_name": "m", "ip_version": ipv, "account_id": 5, "said": said} | given | fields))  # type: ignore[arg-type]


def an_agent(*rows: MonitorRow) -> Agent:
    return agent_of("m", rows, Health({}, None))


def test_both_protocols_are_one_agent() -> None:
    found = an_agent(row("v4", last_submit=NOW), row("v6"))
    assert (found.present, found.last_submit, len(found.states)) == (NOW, NOW, 2)
    assert idle(found, NOW) == "does not probe: disk full"


def test_a_protocol_that_should_not_probe_does_not_count() -> None:
    assert idle(an_agent(row("v4", last_submit=NOW)), NOW) is None


def test_when_an_agent_was_last_present() -> None:
    hour = timedelta(hours=1)
    assert an_agent(row(online=False, since=NOW - hour)).present == NOW - hour
    assert an_agent(row(online=None, since=None, seen=None, said=None, last_seen=NOW - hour)).present == NOW - hour
    assert an_agent(row(online=None, since=None, seen=None, said=None)).present is None
    assert an_agent(row(said="{broken")).states == ()
    assert an_agent(row(seen="0000-00-00 00:00:00", last_submit="0000-00-00")).present is None


# ---- the pool ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago", "due_within", "bad"),
    [
        (14, 15, False),
        (15, 15, True),
        (14, None, False),
        (60, None, None),
        (None, 15, None),
        (14, 67, False),
        (15, 67, None),
        (66, 67, None),
        (67, 67, True),
    ],
)
def test_results_are_missing_once_they_are_due(ago: int | None, due_within: int | None, bad: bool | None) -> None:
    last = None if ago is None else NOW - timedelta(minutes=ago)
    within = None if due_within is None else timedelta(minutes=due_within)
    fact = results_fact(last, NOW, within, timedelta(minutes=15))
    assert (fact.bad, fact.since) == (bad, last)

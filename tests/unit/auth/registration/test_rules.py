"""Test the rules of registration: addresses, texts from hosts, the steps, and the plan of a confirmation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.registration.model import (
    Account,
    Confirmer,
    KnownMonitor,
    Outcome,
    Plan,
    Problem,
    Refusal,
    Refused,
    State,
)
from auth.registration.rules import (
    Step,
    check_hostname,
    check_peer,
    clean_client,
    clean_reason,
    free_name,
    next_step,
    parse_location,
    plan,
    recent_registrations,
)
from runtime.addresses import network_of
from schema.names import Environment
from testbed.fixtures.registering import NOW, OPERATOR, owner
from testbed.random_inputs import examples

V4, V6 = "8.8.4.4", "2001:4860:4860::8844"
STATE = State("pending", NOW, V4, V6)
ACCOUNT = Account(1, "4xhq2c9", monitors=0, monitor_limit=None, monitor_enabled=False)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "127.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:192.168.1.1", "64:ff9b::a00:1"]
)
def test_private_addresses_are_refused_outside_devel(address: str) -> None:
    for env in ("prod", "test"):
        refused = check_peer(address, env)  # type: ignore[arg-type]  # each is an environment
        assert isinstance(refused, Refused) and refused.kind is Refusal.ADDRESS and "public" in refused.sentence
    assert not isinstance(check_peer(address, "devel"), Refused)


@pytest.mark.parametrize("env", ["prod", "devel"])
@pytest.mark.parametrize(
    "address", ["224.0.0.1", "ff02::1", "0.0.0.0", "::", "fe80::1%eth0", "", "testclient", "1.2.3"]
)
def test_what_is_no_host_is_refused_everywhere(address: str, env: Environment) -> None:
    assert isinstance(check_peer(address, env), Refused)


def test_mapped_address_is_one_of_ipv4() -> None:
    assert check_peer(f"::ffff:{V4}", "prod") == ("v4", V4)
    assert check_peer("2001:4860:4860:0::8844", "prod") == ("v6", V6)


def test_limits_count_for_an_address_or_a_64() -> None:
    assert network_of(V4) == V4
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert network_of("2001:db8:1:3::") != network_of("2001:db8:1:2::")


def test_times_of_an_hour_count_and_those_of_a_wrong_clock_do_not() -> None:
    now = NOW.timestamp()
    assert recent_registrations([now - 3601, now - 3599, now, now + 30, now + 86_400], NOW) == [
        now - 3599,
        now,
        now + 30,
    ]


@given(st.text())
@examples(100)
def test_texts_of_hosts_and_people_are_harmless_on_a_page_and_in_a_terminal(text: str) -> None:
    hostname = check_hostname(text)
    assert isinstance(hostname, Refused) or (len(hostname) <= 253 and not set(hostname) & set("<>&\"'\n\x1b "))
    client = clean_client(text)
    assert len(client) <= 240 and client.isascii() and (client.isprintable() or not client)
    reason = clean_reason(text)
    assert len(reason) <= 300 and "\n" not in reason and (reason.isprintable() or not reason)


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_steps_from_the_first_request_to_the_last() -> None:
    assert next_step(replace(STATE, ip6=""), "v6", V6, NOW) is Step.ADD_ADDRESS
    assert next_step(STATE, "v6", V6, NOW) is Step.WAIT
    accepted = replace(STATE, status="accepted", decided_on=NOW)
    assert next_step(accepted, "v4", V4, NOW + 5 * MINUTE) is Step.HAND_OUT
    handed = replace(accepted, handed_on=NOW)
    assert next_step(handed, "v6", V6, NOW + 10 * MINUTE - timedelta(seconds=1)) is Step.REPEAT
    assert next_step(handed, "v6", V6, NOW - timedelta(seconds=1)) is Step.REPEAT, "another process's clock is behind"
    assert next_step(handed, "v6", V6, NOW + 10 * MINUTE) is Step.COMPLETE
    assert next_step(replace(handed, status="completed"), "v4", V4, NOW) is Step.COMPLETE


@pytest.mark.parametrize("status", ["pending", "accepted", "completed"])
def test_another_address_gets_neither_key_nor_page(status: Any) -> None:
    state = replace(STATE, status=status, decided_on=NOW, handed_on=NOW if status == "completed" else None)
    refused = next_step(state, "v4", "9.9.9.9", NOW)
    assert isinstance(refused, Refused) and refused.kind is Refusal.OTHER_ADDRESS and "setup" in refused.sentence


@pytest.mark.parametrize("handed", [False, True])
def test_protocol_that_nobody_confirmed_gets_no_key(handed: bool) -> None:
    state = replace(STATE, status="accepted", ip6="", decided_on=NOW, handed_on=NOW if handed else None)
    assert isinstance(next_step(state, "v6", V6, NOW), Refused)


def test_registration_ends_after_24_hours_unless_its_key_was_handed_out() -> None:
    for state in (STATE, replace(STATE, status="accepted", decided_on=NOW)):
        assert not isinstance(next_step(state, "v4", V4, NOW + DAY - MINUTE), Refused)
        refused = next_step(state, "v4", V4, NOW + DAY)
        assert isinstance(refused, Refused) and "24 hours; run 'ntppool-agent setup' again" in refused.sentence
    handed = replace(STATE, status="accepted", decided_on=NOW, handed_on=NOW)
    assert next_step(handed, "v4", V4, NOW + DAY) is Step.COMPLETE


def test_host_of_a_rejected_registration_is_told_why() -> None:
    refused = next_step(replace(STATE, status="rejected", reason="no room"), "v4", V4, NOW)
    assert isinstance(refused, Refused) and refused.sentence == "This registration was rejected: no room."


# ---- the plan --------------------------------------------------------------------------------------------------------


def known(number: int, name: str, ip: str | None, **changed: Any) -> KnownMonitor:
    ipv = "v6" if ":" in (ip or "") else "v4"
    return replace(KnownMonitor(number, name, ipv, ip, 1, "active"), **changed)  # type: ignore[arg-type]


def planned(**given: Any) -> Plan | Problem:
    defaults: dict[str, Any] = {
        "env": "prod",
        "domain": "mon.example",
        "state": STATE,
        "account": ACCOUNT,
        "location": "nlams",
        "choice": None,
        "by": owner(1),
        "holders": (),
        "renews": (),
        "named": (),
        "taken": (),
    }
    return plan(**defaults | given)


def name(number: int) -> str:
    return f"nlams{number}-4xhq2c9.prod.mon.example"


def test_new_host_gets_both_protocols_under_one_name() -> None:
    assert planned() == Plan(name(1), insert={"v4": V4, "v6": V6})


def test_account_that_needs_no_approval_tests_at_once() -> None:
    made = planned(account=replace(ACCOUNT, monitor_enabled=True))
    assert isinstance(made, Plan) and made.status == "testing"


@pytest.mark.parametrize(
    ("taken", "number"),
    [((), 1), ((name(1),), 2), ((name(2),), 1), ((name(1), name(2), name(4)), 3), ((name(1).upper(),), 2)],
)
def test_name_has_the_smallest_free_number(taken: tuple[str, ...], number: int) -> None:
    assert free_name("nlams", ACCOUNT, "prod", "mon.example", taken) == name(number)


@pytest.mark.parametrize("token", ["", "a.b", "a/b", "+", "Ä", "-a", "x" * 64])
def test_account_token_that_no_name_can_contain_is_a_problem(token: str) -> None:
    assert isinstance(free_name("nlams", replace(ACCOUNT, token=token), "prod", "mon.example", ()), Problem)


@given(st.text(max_size=8))
@examples(50)
def test_location_is_3_to_5_letters(text: str) -> None:
    code = parse_location(text)
    assert isinstance(code, Problem) or (3 <= len(code) <= 5 and code.isascii() and code.isalpha() and code.islower())


def test_monitor_limit_counts_each_protocol_and_what_is_set_aside() -> None:
    full = replace(ACCOUNT, monitors=1, monitor_limit=2)
    assert isinstance(planned(account=full), Problem)
    assert isinstance(planned(account=full, state=replace(STATE, ip6="")), Plan)
    holder = known(5, name(1), V4)
    assert isinstance(planned(account=full, holders=[holder], choice=Outcome.NEW_NAME, taken=[name(1)]), Plan)


def test_own_monitor_with_the_address_requires_a_choice() -> None:
    holder = known(5, name(1), V4)
    problem = planned(holders=[holder], named=[holder])
    assert isinstance(problem, Problem) and problem.choose == (Outcome.NEW_KEY, Outcome.NEW_NAME)
    assert planned(holders=[holder], named=[holder], choice=Outcome.NEW_KEY) == Plan(name(1), insert={"v6": V6})
    assert planned(holders=[holder], named=[holder], choice=Outcome.NEW_NAME, taken=[name(1)]) == Plan(
        name(2), insert={"v4": V4, "v6": V6}, set_aside=frozenset({5})
    )


def test_host_whose_other_address_has_changed_keeps_its_name() -> None:
    v4, v6 = known(5, name(1), V4), known(6, name(1), "2001:4860::1")
    made = planned(holders=[v4], named=[v4, v6], choice=Outcome.NEW_KEY)
    assert made == Plan(name(1), update={6: V6})


def test_addresses_of_two_monitors_leave_only_a_new_name() -> None:
    holders = [known(5, name(1), V4), known(6, name(2), V6)]
    problem = planned(holders=holders, named=holders, choice=Outcome.NEW_KEY)
    assert isinstance(problem, Problem) and problem.choose == (Outcome.NEW_NAME,)


@pytest.mark.parametrize("foreign", [2, None])
@pytest.mark.parametrize("choice", [None, *Outcome])
def test_monitor_of_another_account_is_safe(foreign: int | None, choice: Outcome | None) -> None:
    holder = known(5, "deber1-other.prod.mon.example", V4, account_id=foreign)
    problem = planned(holders=[holder], named=[holder], choice=choice)
    assert isinstance(problem, Problem) and problem.choose == () and "deber1" not in problem.sentence


def test_operator_may_set_a_foreign_monitor_aside_but_not_give_its_name_away() -> None:
    holder = known(5, "deber1-other.prod.mon.example", V4, account_id=2)
    assert isinstance(planned(holders=[holder], named=[holder], choice=Outcome.NEW_KEY, by=OPERATOR), Problem)
    made = planned(holders=[holder], named=[holder], choice=Outcome.NEW_NAME, by=OPERATOR)
    assert isinstance(made, Plan) and made.set_aside == {5}


@pytest.mark.parametrize("by", [Confirmer("nobody"), owner(2)])
def test_stranger_confirms_nothing(by: Confirmer) -> None:
    assert isinstance(planned(by=by), Problem)


def test_host_with_a_key_adds_a_protocol_or_moves_without_a_location() -> None:
    mine = known(5, name(7), V4)
    assert planned(renews=[mine], holders=[mine], location="") == Plan(name(7), insert={"v6": V6})
    moved = planned(renews=[replace(mine, ip="9.9.9.9")], location="")
    assert moved == Plan(name(7), insert={"v6": V6}, update={5: V4})


def test_deleted_protocol_lives_again() -> None:
    mine, gone = known(5, name(7), V4), known(6, name(7), V6, status="deleted")
    assert planned(renews=[mine, gone], holders=[mine]) == Plan(name(7), update={6: V6}, revive=frozenset({6}))


def test_key_of_a_monitor_of_another_account_is_renewed_by_its_owner_only() -> None:
    mine = known(5, name(7), V4, account_id=2)
    assert isinstance(planned(renews=[mine], holders=[mine]), Problem)

"""Test registrations in the ledger, on every database: the way to a key, and everything that must not lead to one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.api_key_store import authenticate, list_keys, revoke_key
from auth.deletion import delete_monitors
from auth.registration.accounts import lock_account
from auth.registration.model import (
    Accepted,
    Answer,
    Completed,
    Confirmed,
    Outcome,
    Pending,
    Problem,
    Refusal,
    Refused,
    Rejected,
)
from auth.registration.store import Registrations
from runtime.db.engine import reading, transaction
from schema.tables import metadata, monitors, registration_details, registration_sources
from testbed.fixtures.registering import (
    NOW,
    OPERATOR,
    PEPPERS,
    account,
    ask,
    monitor_rows,
    new_id,
    owner,
    registrations,
    token_of,
)

V4, V6 = "8.8.4.4", "2001:4860:4860::8844"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def confirm(these: Registrations, answer: Answer, account_id: int, choice: Outcome | None = None) -> Confirmed:
    done = these.confirm(
        token_of(answer), account_id=account_id, location="NLAMS", choice=choice, by=owner(account_id), now=NOW
    )
    assert isinstance(done, Confirmed), done
    return done


def registered(
    these: Registrations, account_id: int, *ips: str, choice: Outcome | None = None, monitor_ids: tuple[int, ...] = ()
) -> Accepted:
    """Register a host as far as its key."""
    mine = new_id()
    confirm(these, ask(these, mine, *ips, monitor_ids=monitor_ids), account_id, choice)
    found = ask(these, mine, ips[0])
    assert isinstance(found, Accepted), found
    return found


def is_valid(engine: Engine, found: Accepted, after: timedelta = SECOND) -> bool:
    return authenticate(engine, PEPPERS, found.key.clear, NOW + after) is not None


def test_host_with_both_protocols_gets_one_name_and_one_key(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    first = ask(these, mine, V6, V4, V4, account_token="4xhq2c9")
    shown = these.show(token_of(first), owner(owned), NOW)
    assert shown is not None and (shown.ip4, shown.ip6, shown.hostname) == (V4, V6, "host.example.net")
    assert (shown.account_id, shown.status, shown.choose, shown.warnings) == (owned, "pending", (), ())
    assert monitor_rows(engine) == [], "-a selects an account; it does not approve"
    name = "nlams1-4xhq2c9.prod.mon.example"
    assert confirm(these, first, owned) == confirm(these, first, owned) == Confirmed(name)
    assert [tuple(row) for row in monitor_rows(engine)] == [
        (name, "v4", V4, "pending", True, owned),
        (name, "v6", V6, "pending", True, owned),
    ]
    accepted = ask(these, mine, V4)
    assert isinstance(accepted, Accepted) and accepted.name == name
    assert ask(these, mine, V6, now=NOW + 9 * MINUTE) == accepted, "the answer may have been lost"
    key = authenticate(engine, PEPPERS, accepted.key.clear, NOW)
    assert key is not None and len(key.monitor_ids) == 2
    for after in (10 * MINUTE, 30 * HOUR):
        completed = ask(these, mine, V4, now=NOW + after)
        assert isinstance(completed, Completed) and "setup" in completed.advice
    with reading(engine) as connection:
        assert len(list_keys(connection)) == 1
        assert connection.scalar(sa.select(registration_details.c.sealed_key)) is None


def test_ledger_has_neither_registration_id_nor_key(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    confirm(these, ask(these, mine, V4), owned)
    accepted = ask(these, mine, V4)
    assert isinstance(accepted, Accepted)
    with reading(engine) as connection:
        ledger = repr([tuple(row) for table in metadata.sorted_tables for row in connection.execute(sa.select(table))])
    assert mine.clear.lower() not in ledger.lower() and accepted.key.clear[16:] not in ledger


def test_key_is_not_kept_for_a_host_that_does_not_return(sqlite_engine: Engine) -> None:
    these = registrations(sqlite_engine)
    registered(these, account(sqlite_engine, "4xhq2c9"), V4)
    for late, kept in ((10 * MINUTE - SECOND, True), (10 * MINUTE, False)):
        these.expire(NOW + late)
        with reading(sqlite_engine) as connection:
            assert (connection.scalar(sa.select(registration_details.c.sealed_key)) is not None) is kept


def test_forged_and_foreign_requests_get_nothing(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    token = token_of(ask(these, mine, V4))
    elsewhere = ask(these, mine, "9.9.9.9")
    assert isinstance(elsewhere, Refused) and elsewhere.kind is Refusal.OTHER_ADDRESS
    assert these.show("0" * 32, owner(owned), NOW) is None
    nothing = these.confirm("0" * 32, account_id=owned, location="nlams", by=owner(owned), now=NOW)
    foreign = these.confirm(token, account_id=owned, location="nlams", by=owner(owned + 1), now=NOW)
    assert isinstance(nothing, Problem) and isinstance(foreign, Problem)
    confirm(these, Pending(f"/{token}"), owned)
    guess = ask(these, new_id(), V4)
    assert isinstance(guess, Pending), "another registration from the address is another one"
    assert isinstance(ask(these, mine, "9.9.9.9"), Refused), "a copy of the host elsewhere gets no key"
    assert isinstance(ask(these, mine, V4), Accepted)


def test_confirmed_registration_is_confirmed_for_no_other_account(engine: Engine) -> None:
    these, mine = registrations(engine), new_id()
    one, other = account(engine, "4xhq2c9"), account(engine, "another")
    token = token_of(ask(these, mine, V4))
    confirm(these, Pending(f"/{token}"), one)
    again = these.confirm(token, account_id=other, location="nlams", by=owner(one, other), now=NOW)
    assert isinstance(again, Problem) and "already" in again.sentence
    stranger = these.confirm(token, account_id=one, location="nlams", by=owner(other), now=NOW)
    assert isinstance(stranger, Problem) and "nlams1" not in stranger.sentence, "its name is not for strangers"
    assert len(monitor_rows(engine)) == 1


@pytest.mark.parametrize("job", [False, True])
def test_nobody_confirms_after_24_hours(engine: Engine, job: bool) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    token, late = token_of(ask(these, mine, V4)), NOW + 24 * HOUR
    assert these.expire(late - SECOND) == 0
    if job:
        assert (these.expire(late), these.expire(late)) == (1, 0)
    done = these.confirm(token, account_id=owned, location="nlams", by=OPERATOR, now=late)
    assert isinstance(done, Problem) and monitor_rows(engine) == []
    ended = ask(these, mine, V4, now=late)
    assert isinstance(ended, Refused) and "setup" in ended.sentence
    assert these.listed(late, status="cancelled")[0].id == these.listed(late)[0].id


def test_rejected_host_is_told_why_by_those_who_may(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    token = token_of(ask(these, mine, V4, account_token="4xhq2c9"))
    assert isinstance(these.reject(token, by=owner(owned + 1), reason="", now=NOW), Problem)
    assert isinstance(these.reject(token, by=owner(owned), reason="no\nroom", now=NOW), Rejected)
    told = ask(these, mine, V4)
    assert told == Refused(Refusal.REJECTED, "This registration was rejected: no room.")
    assert isinstance(these.confirm(token, account_id=owned, location="nlams", by=OPERATOR, now=NOW), Problem)


def test_private_addresses_register_in_devel_only(engine: Engine) -> None:
    assert isinstance(ask(registrations(engine), new_id(), "192.168.0.1"), Refused)
    assert isinstance(ask(registrations(engine, "devel"), new_id(), "192.168.0.1"), Pending)


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ips", [[V4] * 11, [f"2001:4860:1:2::{number}" for number in range(1, 12)]])
def test_ten_registrations_an_hour_and_network(engine: Engine, ips: list[str]) -> None:
    these, mine = registrations(engine), new_id()
    answers = [ask(these, mine if number == 0 else new_id(), ip) for number, ip in enumerate(ips)]
    assert [type(answer) for answer in answers] == [Pending] * 10 + [Refused]
    assert ask(these, mine, ips[0]) == answers[0], "a registration that has begun goes on"
    assert isinstance(ask(these, new_id(), "9.9.9.9"), Pending), "others are not concerned"
    with reading(engine) as connection:
        s = registration_sources.c
        row = connection.execute(sa.select(s.begun, s.refused, s.refusal).order_by(s.begun.desc())).first()
    assert row is not None and tuple(row) == (10, 1, "too_many")
    assert isinstance(ask(these, new_id(), ips[0], now=NOW + HOUR), Pending)


def test_limit_holds_for_simultaneous_requests(engine: Engine) -> None:
    these = registrations(engine)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: ask(these, one, V4), [new_id() for _ in range(14)]))
    assert sum(isinstance(answer, Pending) for answer in answers) == 10


def test_three_unconfirmed_registrations_an_account(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9")
    answers = [ask(these, new_id(), f"8.8.{number}.1", account_token="4xhq2c9") for number in range(4)]
    assert [type(answer) for answer in answers] == [Pending] * 3 + [Refused]
    assert isinstance(ask(these, new_id(), "8.8.5.1", account_token="nobody"), Refused)
    confirm(these, answers[0], owned)
    assert isinstance(ask(these, new_id(), "8.8.6.1", account_token="4xhq2c9"), Pending)


def test_monitor_limit_and_monitor_enabled_of_the_account(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9", monitor_limit=1, monitor_enabled=True)
    registered(these, owned, V4)
    assert [row.status for row in monitor_rows(engine)] == ["testing"]
    token = token_of(ask(these, new_id(), "9.9.9.9"))
    refused = these.confirm(token, account_id=owned, location="nlams", by=OPERATOR, now=NOW)
    assert isinstance(refused, Problem) and "1 monitors" in refused.sentence and len(monitor_rows(engine)) == 1


def test_unreadable_flags_are_no_permission(sqlite_engine: Engine) -> None:
    owned = account(sqlite_engine, "4xhq2c9")
    limits = ("true", '"9"', "1.5", '0, "monitor_enabled": 1', '0, "monitor_enabled": "true"')
    for flags in ("[]", '"x"', "{", "[" * 5_000, *(f'{{"monitor_limit": {limit}}}' for limit in limits)):
        with sqlite_engine.begin() as connection:
            connection.execute(sa.text("UPDATE accounts SET flags = :flags"), {"flags": flags})
            found = lock_account(connection, owned)
        assert found is not None and (found.monitor_limit, found.monitor_enabled) == (0, False), flags


def test_simultaneous_confirmations_give_different_names(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9")
    waiting = [ask(these, new_id(), f"2001:4860:{n}::1" if n % 2 else f"8.8.{n}.1") for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda answer: confirm(these, answer, owned).name, waiting))
    assert sorted(names) == [f"nlams{number}-4xhq2c9.prod.mon.example" for number in range(1, 7)]


def test_simultaneous_requests_of_one_host_are_one_registration_with_one_key(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    with ThreadPoolExecutor(4) as pool:
        first = set(pool.map(lambda ip: ask(these, mine, ip), [V4, V6] * 3))
        assert len(first) == 1
        confirm(these, first.pop(), owned)
        keys = list(pool.map(lambda ip: ask(these, mine, ip), [V4, V6] * 3))
    assert len({answer.key.clear for answer in keys if isinstance(answer, Accepted)}) == 1
    with reading(engine) as connection:
        assert len(list_keys(connection)) == 1


# ---- registering again -----------------------------------------------------------------------------------------------


def test_host_with_its_key_adds_a_protocol_and_renews_its_key(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9")
    former = registered(these, owned, V4)
    key = authenticate(engine, PEPPERS, former.key.clear, NOW)
    assert key is not None
    mine = new_id()
    answer = ask(these, mine, V4, V6, monitor_ids=key.monitor_ids)
    shown = these.show(token_of(answer), owner(owned), NOW)
    assert shown is not None and shown.renews and (shown.account_id, shown.name) == (owned, former.name)
    assert isinstance(
        these.confirm(token_of(answer), account_id=account(engine, "another"), location="x", by=owner(owned), now=NOW),
        Problem,
    )
    assert confirm(these, answer, owned) == Confirmed(former.name)
    new = ask(these, mine, V6)
    assert isinstance(new, Accepted) and new.name == former.name and new.key != former.key
    assert [(row.tls_name, row.ip_version) for row in monitor_rows(engine)] == [(new.name, "v4"), (new.name, "v6")]
    assert is_valid(engine, new) and is_valid(engine, former, 10 * MINUTE - SECOND)
    assert not is_valid(engine, former, 10 * MINUTE) and is_valid(engine, new, 10 * MINUTE)


def test_address_of_an_own_monitor_gets_a_new_key_for_it(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9")
    former = registered(these, owned, V4)
    answer = ask(these, new_id(), V4)
    shown = these.show(token_of(answer), owner(owned), NOW)
    assert shown is not None and [(one.ip, one.name) for one in shown.warnings] == [(V4, former.name)]
    assert shown.choose == (Outcome.NEW_KEY, Outcome.NEW_NAME)
    unsure = these.confirm(token_of(answer), account_id=owned, location="nlams", by=owner(owned), now=NOW)
    assert isinstance(unsure, Problem) and unsure.choose == shown.choose
    again = registered(these, owned, V4, choice=Outcome.NEW_KEY)
    assert again.name == former.name and again.key != former.key and len(monitor_rows(engine)) == 1
    assert not is_valid(engine, former, 10 * MINUTE) and is_valid(engine, again, 10 * MINUTE)


def test_deleted_protocol_that_returns_needs_another_approval(sqlite_engine: Engine) -> None:
    these, owned = registrations(sqlite_engine), account(sqlite_engine, "4xhq2c9")
    registered(these, owned, V4, V6)

    def approve_both_and_delete_one(connection: Connection) -> None:
        connection.execute(sa.update(monitors).values(status="active"))
        deleted = connection.scalars(sa.select(monitors.c.id).where(monitors.c.ip == V6)).all()
        delete_monitors(connection, deleted, NOW)

    transaction(sqlite_engine, approve_both_and_delete_one)
    registered(these, owned, V4, V6, choice=Outcome.NEW_KEY)
    assert [(row.ip, row.status) for row in monitor_rows(sqlite_engine)] == [(V4, "active"), (V6, "pending")]


def test_address_of_an_own_monitor_gets_a_new_name_and_the_old_one_is_set_aside(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9")
    former = registered(these, owned, V4)
    mine = new_id()
    done = confirm(these, ask(these, mine, V4), owned, Outcome.NEW_NAME)
    assert done == Confirmed("nlams2-4xhq2c9.prod.mon.example", (former.name,))
    assert [(row.status, row.is_current) for row in monitor_rows(engine)] == [("deleted", None), ("pending", True)]
    assert not is_valid(engine, former), "its key is revoked at once"


def test_monitor_of_another_account_is_neither_shown_nor_touched(engine: Engine) -> None:
    these, victim, thief = registrations(engine), account(engine, "victim1"), account(engine, "thief12")
    former = registered(these, victim, V4)
    answer = ask(these, new_id(), V4)
    shown = these.show(token_of(answer), owner(thief), NOW)
    assert shown is not None and [one.name for one in shown.warnings] == [None]
    for choice in (None, *Outcome):
        done = these.confirm(
            token_of(answer), account_id=thief, location="nlams", choice=choice, by=owner(thief), now=NOW
        )
        assert isinstance(done, Problem) and former.name not in done.sentence
    assert is_valid(engine, former) and len(monitor_rows(engine)) == 1
    done = these.confirm(
        token_of(answer), account_id=thief, location="nlams", choice=Outcome.NEW_NAME, by=OPERATOR, now=NOW
    )
    assert isinstance(done, Confirmed) and not is_valid(engine, former)


def test_key_revoked_before_its_host_fetched_it_again_is_not_repeated(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    confirm(these, ask(these, mine, V4), owned)
    assert isinstance(ask(these, mine, V4), Accepted)
    with reading(engine) as connection:
        key_id = list_keys(connection)[0].id
    transaction(engine, lambda c: revoke_key(c, key_id, NOW))
    assert isinstance(ask(these, mine, V4, now=NOW + SECOND), Completed)


def test_monitor_removed_before_its_host_fetched_the_key_gets_none(engine: Engine) -> None:
    these, mine, owned = registrations(engine), new_id(), account(engine, "4xhq2c9")
    confirm(these, ask(these, mine, V4), owned)
    gone = {"status": "deleted", "is_current": None}
    transaction(engine, lambda c: c.execute(sa.update(monitors).values(gone)))
    told = ask(these, mine, V4)
    assert isinstance(told, Refused) and "setup" in told.sentence


def test_deciding_is_recorded(engine: Engine) -> None:
    these, owned = registrations(engine), account(engine, "4xhq2c9")
    token = token_of(ask(these, new_id(), V4))
    by = replace(owner(owned), label="ann@example.net")
    these.confirm(token, account_id=owned, location="nlams", by=by, now=NOW)
    assert these.listed(NOW, account_id=owned)[0].decided_by == "ann@example.net"

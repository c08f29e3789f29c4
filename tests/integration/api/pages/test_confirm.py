"""Test the page of a registration: what it shows to whom, and what confirming and rejecting do."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from auth.registration.model import Accepted, Pending, Refused, Request
from auth.registration.secret import RegistrationId
from auth.registration.store import Registrations
from runtime.db.engine import transaction
from schema.tables import monitor_registrations, monitors, registration_details
from testbed.fixtures.pages import Browser, Login, ManualTime, Page, application, browser, read_page, services
from testbed.fixtures.registering import account, ask, monitor_rows, new_id, owner, registrations, token_of

V4, V6 = "8.8.4.4", "2001:4860:4860::8844"
CONFIRM = "/manage/monitors/confirm/"


@pytest.fixture
def app(sqlite_engine: Engine, now: ManualTime) -> FastAPI:
    return application(services(sqlite_engine, now=now, api_operators="account:operators"))


@pytest.fixture
def these(sqlite_engine: Engine) -> Registrations:
    return registrations(sqlite_engine)


@pytest.fixture
def anna(log_in: Login, owned: int) -> Browser:
    return log_in(owned)


def waiting(these: Registrations, *ips: str, mine: RegistrationId | None = None, **given: str) -> str:
    """Begin a registration, and return the path of its page."""
    return CONFIRM + token_of(ask(these, mine or new_id(), *(ips or (V4,)), **given))  # type: ignore[arg-type]


def confirm(anna: Browser, path: str, owned: int, location: str = "nlams", **given: str) -> Page:
    return anna.submit(anna.get(path), path, account=str(owned), location=location, **given)


# ---- confirming ------------------------------------------------------------------------------------------------------


def test_person_confirms_what_was_seen_and_the_host_gets_its_key(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    mine = new_id()
    path = waiting(these, V4, V6, mine=mine)
    assert path in anna.get(f"{path}/status").links
    page = anna.get(path)
    assert all(word in page.words for word in (V4, V6, "host.example.net", "ntppool-agent/v5"))
    assert page.form(path).fields["account"] == str(owned), "the only account"
    assert page.form(path).fields["location"] == "", "nothing but the person's choice fills it in"
    done = confirm(anna, path, owned)
    assert (done.status, done.path) == (200, f"{path}/status")
    assert "nlams1-4xhq2c9 is confirmed" in done.words
    assert [(row.tls_name, row.ip, row.status) for row in monitor_rows(sqlite_engine)] == [
        ("nlams1-4xhq2c9.prod.mon.example", V4, "pending"),
        ("nlams1-4xhq2c9.prod.mon.example", V6, "pending"),
    ]
    accepted = ask(these, mine, V4)
    assert isinstance(accepted, Accepted)
    assert "The host has its key." in anna.get(path).words
    assert "nlams1-4xhq2c9" in anna.get("/manage").words
    with sqlite_engine.connect() as connection:
        by = connection.scalar(sa.select(registration_details.c.decided_by))
    assert by is not None and by.startswith("key ")


def test_renewal_of_a_key_promises_no_approval(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    first = waiting(these)
    confirm(anna, first, owned)
    with sqlite_engine.connect() as connection:
        monitor_id = connection.scalars(sa.select(monitors.c.id)).one()
    path = CONFIRM + token_of(ask(these, new_id(), V4, monitor_ids=(monitor_id,)))
    words = confirm(anna, path, owned).words
    assert "goes on as before" in words and "approved" not in words
    assert "approved" in anna.get(first).words


def test_address_with_capitals_is_the_same(anna: Browser, these: Registrations, owned: int) -> None:
    path = waiting(these)
    page = anna.get(path.upper().replace(CONFIRM.upper(), CONFIRM))
    assert anna.submit(page, path, account=str(owned), location="AMS").path == f"{path}/status"


def test_registration_id_and_keys_are_on_no_page(anna: Browser, these: Registrations, owned: int) -> None:
    mine = new_id()
    path = waiting(these, mine=mine)
    pages = [anna.get(path), confirm(anna, path, owned), anna.get("/manage")]
    accepted = ask(these, mine, V4)
    assert isinstance(accepted, Accepted)
    pages += [anna.get(path), anna.get("/manage"), anna.get("/manage/monitors/nlams1-4xhq2c9.prod.mon.example")]
    for page in pages:
        text = page.answer.text.lower()
        assert mine.clear.lower() not in text and mine.hashed not in text and "ntpm_" not in text
        assert accepted.key.clear[5:] not in text


def test_problem_is_shown_with_what_was_filled_in(anna: Browser, these: Registrations, owned: int) -> None:
    path = waiting(these)
    page = confirm(anna, path, owned, location="a<b>\"'")
    assert page.status == 409 and "The location must be 3 to 5 letters" in page.words
    assert page.focus == "location"
    assert page.form(path).fields["location"] == "a<b>\"'" and "<b>" not in page.answer.text
    assert anna.submit(page, path, location="ams").status == 200


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "99999999999", "1.0", "\u0661", "999"])
def test_hostile_choice_of_an_account_is_refused(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine, text: str
) -> None:
    path = waiting(these)
    fields = {**anna.get(path).form(path).fields, "account": text, "location": "ams"}
    assert anna.post(path, fields).status_code in (409, 422)
    assert monitor_rows(sqlite_engine) == []


def test_account_of_the_agents_option_is_preselected_and_not_approved(
    log_in: Login, these: Registrations, sqlite_engine: Engine
) -> None:
    account(sqlite_engine, "operators")
    second = account(sqlite_engine, "second")
    path = waiting(these, account_token="second")
    assert monitor_rows(sqlite_engine) == []
    page = log_in(second).get(path)
    assert page.form(path).fields["account"] == str(second)


def test_second_confirmation_changes_nothing(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    path = waiting(these)
    page = anna.get(path)
    for _ in range(2):
        assert anna.submit(page, path, account=str(owned), location="ams").path == f"{path}/status"
    assert len(monitor_rows(sqlite_engine)) == 1
    late = anna.submit(page, f"{path}/reject", reason="too late")
    assert "is confirmed" in late.words


def test_ended_registration_says_so(log_in: Login, these: Registrations, now: ManualTime, owned: int) -> None:
    path = waiting(these)
    now.move(timedelta(hours=24))
    anna = log_in(owned)
    page = anna.get(path)
    assert page.path == f"{path}/status" and "has ended" in page.words
    token = page.form("/logout").fields["form_token"]
    answer = anna.post(path, {"form_token": token, "account": str(owned), "location": "ams"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{path}/status")


@pytest.mark.parametrize(
    "token", ["0" * 32, "0" * 31, "0" * 33, "x" * 32, "..", "%00", "\u0661" * 32, "a'b", "{token}"]
)
def test_unknown_registration_is_not_found(anna: Browser, token: str) -> None:
    page = anna.get(CONFIRM + token)
    assert page.status == 404


# ---- an address that belongs to a monitor already --------------------------------------------------------------------


def registered(these: Registrations, account_id: int, token: str, *ips: str) -> None:
    mine = new_id()
    answer = ask(these, mine, *ips)
    assert isinstance(answer, Pending)
    these.confirm(
        token_of(answer), account_id=account_id, location=token, by=owner(account_id), now=ManualTime().moment
    )
    assert isinstance(ask(these, mine, ips[0]), Accepted)


def test_person_chooses_what_becomes_of_their_former_monitor(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    registered(these, owned, "nlams", V4)
    path = waiting(these)
    page = anna.get(path)
    assert f"The address {V4} belongs to the monitor nlams1-4xhq2c9 already." in page.words
    assert page.form(path).choices["outcome"] == ["new-key", "new-name"]
    assert "outcome" not in page.form(path).fields, "nothing is chosen for the person"
    unsure = anna.submit(page, path, account=str(owned), location="ams")
    assert (unsure.status, unsure.focus) == (409, "outcome")
    done = confirm(anna, path, owned, location="", outcome="new-key")
    assert "nlams1-4xhq2c9 is confirmed" in done.words
    path = waiting(these)
    done = confirm(anna, path, owned, location="frpar", outcome="new-name")
    assert "frpar1-4xhq2c9 is confirmed" in done.words
    assert {row.tls_name.partition("-")[0]: row.status for row in monitor_rows(sqlite_engine)} == {
        "nlams1": "deleted",
        "frpar1": "pending",
    }


def test_monitor_of_others_is_neither_named_nor_replaced(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    other = account(sqlite_engine, "another")
    registered(these, other, "nlams", V4)
    path = waiting(these)
    page = anna.get(path)
    assert "a monitor of another account" in page.words and "nlams1" not in page.answer.text
    assert [form.action for form in page.forms] == ["/logout", f"{path}/reject"], "nothing that is refused is offered"
    fields = {**page.form("/logout").fields, "account": str(owned), "location": "ams", "outcome": "new-name"}
    refused = read_page(anna.post(path, fields))
    assert refused.status == 409 and "nlams1" not in refused.answer.text
    assert [row.status for row in monitor_rows(sqlite_engine)] == ["pending"]


# ---- who may see it --------------------------------------------------------------------------------------------------


def test_registration_for_an_account_of_others_is_neither_shown_nor_changed(
    anna: Browser, log_in: Login, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    other = account(sqlite_engine, "another")
    path = waiting(these, account_token="another")
    for page in (anna.get(path), anna.get(f"{path}/status")):
        assert page.status == 403 and V4 not in page.words and "host.example.net" not in page.words
    token = anna.get("/manage").form("/logout").fields["form_token"]
    for action in (path, f"{path}/reject"):
        answer = anna.post(action, {"form_token": token, "account": str(owned), "location": "ams"})
        assert answer.status_code == 403
    assert monitor_rows(sqlite_engine) == []
    assert path not in anna.get("/manage").links
    bert = log_in(other)
    assert path in bert.get("/manage").links
    confirm(bert, path, other)
    assert anna.get(f"{path}/status").status == 403, "nor afterwards"


def test_person_confirms_for_their_own_accounts_only(
    anna: Browser, these: Registrations, sqlite_engine: Engine
) -> None:
    other = account(sqlite_engine, "another")
    path = waiting(these)
    page = anna.get(path)
    assert str(other) not in page.form(path).choices["account"]
    fields = {**page.form(path).fields, "account": str(other), "location": "ams"}
    assert anna.post(path, fields).status_code == 409
    assert monitor_rows(sqlite_engine) == []


def test_nobody_sees_anything_without_logging_in(app: FastAPI, these: Registrations) -> None:
    path = waiting(these)
    with browser(app) as stranger:
        for one in (path, f"{path}/status"):
            page = stranger.get(one)
            assert page.path.startswith("/login?") and V4 not in page.answer.text


def test_operator_confirms_for_every_account_and_sees_who_decided(
    log_in: Login, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    operator = log_in(account(sqlite_engine, "operators"))
    path = waiting(these, account_token="4xhq2c9")
    assert path in operator.get("/manage").links
    done = confirm(operator, path, owned)
    assert "nlams1-4xhq2c9 is confirmed" in done.words and "Decided by" in done.words


# ---- rejecting -------------------------------------------------------------------------------------------------------


def test_rejected_host_is_told_the_reason(anna: Browser, these: Registrations) -> None:
    mine = new_id()
    path = waiting(these, mine=mine)
    page = anna.submit(anna.get(path), f"{path}/reject", reason="not <b>mine</b>")
    assert page.path == f"{path}/status" and "Reason: not <b>mine</b>." in page.words
    assert "<b>" not in page.answer.text
    told = ask(these, mine, V4)
    assert isinstance(told, Refused) and "not <b>mine</b>" in told.sentence


# ---- hostile hosts ---------------------------------------------------------------------------------------------------


def test_nothing_that_a_host_says_becomes_part_of_the_page(
    anna: Browser, these: Registrations, owned: int, sqlite_engine: Engine
) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>{{7*7}}"
    answer = these.poll(Request(new_id(), V4, "host", "4xhq2c9", evil), ManualTime().moment)
    path = CONFIRM + token_of(answer)
    r = monitor_registrations.c
    # As if a check of the host name were missing.
    transaction(sqlite_engine, lambda c: c.execute(sa.update(monitor_registrations).values({r.hostname: evil})))
    for page in (anna.get(path), anna.get("/manage"), confirm(anna, path, owned, location=evil[:100])):
        assert "<script" not in page.answer.text and "<img" not in page.answer.text and "{{7*7}}" in page.words

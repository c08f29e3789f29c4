"""Test the overview and the pages of hosts: everyone sees, moves and removes what is theirs, operators everything."""

from datetime import datetime
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from auth.api_key_store import add_key, authenticate
from runtime.db.engine import transaction
from schema.tables import accounts, monitor_health, monitor_presence, monitors
from testbed.fixtures.pages import Browser, Login, application, services
from testbed.fixtures.registering import NOW, PEPPERS, account, monitor_rows
from testbed.fixtures.world import add_monitor, monitor_name

NAME, OTHER = monitor_name("nlams1-4xhq2c9", "prod"), monitor_name("frpar1-another", "prod")
PATH = f"/manage/monitors/{NAME}"


@pytest.fixture
def app(sqlite_engine: Engine) -> FastAPI:
    return application(services(sqlite_engine, api_operators=" account:operators ,bo@example.org"))


@pytest.fixture
def owned(sqlite_engine: Engine) -> int:
    """Return an account with a host with both protocols."""
    found = account(sqlite_engine, "4xhq2c9")
    transaction(sqlite_engine, lambda c: add_monitor(c, NAME, "v4", ip="8.8.4.4", account_id=found))
    transaction(
        sqlite_engine, lambda c: add_monitor(c, NAME, "v6", ip="2001:4860::1", account_id=found, status="testing")
    )
    return found


@pytest.fixture
def foreign(sqlite_engine: Engine) -> int:
    """Return another account with a host."""
    found = account(sqlite_engine, "another")
    transaction(sqlite_engine, lambda c: add_monitor(c, OTHER, "v4", ip="9.9.9.9", account_id=found))
    return found


def token_of(anna: Browser) -> str:
    return anna.get("/manage").form("/logout").fields["form_token"]


def test_person_sees_their_hosts_with_address_status_version_and_last_contact(
    log_in: Login, owned: int, sqlite_engine: Engine
) -> None:
    m = monitors.c
    seen = {"last_seen": datetime(2026, 11, 30, 11, 58), "client_version": "v5.0.1", "hostname": "ntp.example.net"}
    presence = {"tls_name": NAME, "online": True, "since": seen["last_seen"], "seen": seen["last_seen"], "status": "{}"}
    transaction(sqlite_engine, lambda c: c.execute(sa.update(monitors).where(m.ip_version == "v4").values(seen)))
    transaction(sqlite_engine, lambda c: c.execute(sa.insert(monitor_presence).values(presence)))
    anna = log_in(owned)
    page = anna.get("/manage")
    expected = (
        "nlams1-4xhq2c9",
        "8.8.4.4",
        "2001:4860::1",
        "active",
        "testing",
        "online",
        "2026-11-30 11:58 UTC",
        "never",
    )
    assert all(word in page.words for word in expected)
    assert "ntppool-agent setup -a 4xhq2c9" in page.words
    host = anna.get(PATH)
    assert all(word in host.words for word in (*expected, "v5.0.1", "ntp.example.net", NAME))


def test_person_sees_the_health_of_their_monitors(log_in: Login, owned: int, sqlite_engine: Engine) -> None:
    def label(protocol: str, name: str, reason: str) -> None:
        number = sa.select(monitors.c.id).where(monitors.c.tls_name == NAME, monitors.c.ip_version == protocol)
        row = {"label": name, "since": datetime(2026, 11, 30, 11), "reason": reason, "figures": "{}"}
        insert = sa.insert(monitor_health).values(monitor_id=number.scalar_subquery(), **row)
        transaction(sqlite_engine, lambda c: c.execute(insert))

    label("v4", "stable-30d", "delivered results in 99.9 % of 720 hours, 30 d")
    label("v6", "not-probing", "its agent says: <b>clock</b>")
    anna = log_in(owned)
    page = anna.get(PATH).words
    assert "stable-30d, since 2026-11-30 11:00 UTC : delivered results in 99.9 % of 720 hours" in page
    assert "not-probing , since 2026-11-30 11:00 UTC : its agent says: <b>clock</b>" in page, "it is not markup"
    overview = anna.get("/manage").words
    assert "not-probing" in overview and "stable-30d" not in overview, "the overview has troubles only"


def test_account_without_monitors_says_how_to_add_one(log_in: Login, sqlite_engine: Engine) -> None:
    page = log_in(account(sqlite_engine, "empty")).get("/manage/")
    assert "no monitors yet" in page.words and "ntppool-agent setup -a empty" in page.words


# ---- what belongs to others ------------------------------------------------------------------------------------------


def test_host_of_others_is_neither_seen_nor_changed(
    log_in: Login, owned: int, foreign: int, sqlite_engine: Engine
) -> None:
    anna, before = log_in(owned), [tuple(row) for row in monitor_rows(sqlite_engine)]
    overview = anna.get("/manage?q=frpar1")
    assert "frpar1" not in overview.words and "9.9.9.9" not in overview.words and "another" not in overview.words
    theirs, unknown = anna.get(f"/manage/monitors/{OTHER}"), anna.get("/manage/monitors/nobody.prod.mon.example")
    assert (theirs.status, theirs.words) == (404, unknown.words), "nobody learns whether it exists"
    token = token_of(anna)
    for action, fields in (("move", {"account": str(owned)}), ("remove", {"sure": "yes"})):
        answer = anna.post(f"/manage/monitors/{OTHER}/{action}", {"form_token": token, **fields})
        assert answer.status_code == 404
    given_away = anna.post(f"{PATH}/move", {"form_token": token, "account": str(foreign)})
    assert given_away.status_code == 409, "nobody gets monitors that they did not ask for"
    assert [tuple(row) for row in monitor_rows(sqlite_engine)] == before


def test_host_with_a_protocol_of_others_is_not_changed(
    log_in: Login, owned: int, foreign: int, sqlite_engine: Engine
) -> None:
    m = monitors.c
    theirs = sa.update(monitors).where(m.tls_name == NAME, m.ip_version == "v6").values(account_id=foreign)
    transaction(sqlite_engine, lambda c: c.execute(theirs))
    anna = log_in(owned)
    assert anna.get(PATH).status == 404
    assert anna.post(f"{PATH}/remove", {"form_token": token_of(anna), "sure": "yes"}).status_code == 404


@pytest.mark.parametrize(
    "name", ["x", "%25", "_", NAME.upper(), NAME + "%20", "a" * 300, "..%2f..", "settings-v4.system"]
)
def test_hostile_name_is_not_found(log_in: Login, owned: int, sqlite_engine: Engine, name: str) -> None:
    transaction(sqlite_engine, lambda c: add_monitor(c, "settings-v4.system", account_id=owned))
    assert log_in(owned).get(f"/manage/monitors/{name}").status == 404


# ---- moving and removing ---------------------------------------------------------------------------------------------


def test_removed_host_is_gone_with_its_key(log_in: Login, owned: int, sqlite_engine: Engine) -> None:
    m = monitors.c
    with sqlite_engine.connect() as connection:
        ids = list(connection.scalars(sa.select(m.id)))
    _, key = transaction(sqlite_engine, lambda c: add_key(c, PEPPERS, NOW, account_id=owned, monitor_ids=ids))
    anna = log_in(owned)
    page = anna.get(PATH)
    unsure = anna.submit(page, f"{PATH}/remove")
    assert (unsure.status, unsure.focus) == (409, "sure") and [row.status for row in monitor_rows(sqlite_engine)] == [
        "active",
        "testing",
    ]
    done = anna.submit(page, f"{PATH}/remove", sure="yes")
    assert done.path == "/manage" and "nlams1-4xhq2c9 was removed." in done.words
    assert "was removed" not in anna.get("/manage").words, "a notice is shown once"
    assert [(row.status, row.is_current) for row in monitor_rows(sqlite_engine)] == [("deleted", None)] * 2
    assert authenticate(sqlite_engine, PEPPERS, key.clear, NOW) is None
    assert anna.get(PATH).status == 404
    assert anna.submit(page, f"{PATH}/remove", sure="yes").status == 404, "sent again, it changes nothing"


def test_operator_moves_a_host(log_in: Login, owned: int, foreign: int, sqlite_engine: Engine) -> None:
    operator = log_in(account(sqlite_engine, "operators"))
    page = operator.get(PATH)
    assert str(owned) not in page.form(f"{PATH}/move").choices["account"], "it is there already"
    unsure = operator.submit(page, f"{PATH}/move")
    assert (unsure.status, unsure.focus) == (409, "account")
    done = operator.submit(page, f"{PATH}/move", account=str(foreign))
    assert "nlams1-4xhq2c9 was moved." in done.words
    assert {row.account_id for row in monitor_rows(sqlite_engine) if row.tls_name == NAME} == {foreign}
    assert log_in(owned).get(PATH).status == 404
    assert log_in(foreign).get(PATH).status == 200


def test_person_with_one_account_has_none_to_move_to(log_in: Login, owned: int) -> None:
    page = log_in(owned).get(PATH)
    assert [form.action for form in page.forms] == ["/logout", f"{PATH}/remove"]


# ---- operators -------------------------------------------------------------------------------------------------------


def test_operator_finds_every_host(log_in: Login, owned: int, foreign: int, sqlite_engine: Engine) -> None:
    operator = log_in(account(sqlite_engine, "operators"))
    a = accounts.c
    transaction(sqlite_engine, lambda c: c.execute(sa.update(accounts).where(a.id == foreign).values(name="Ticks")))
    transaction(sqlite_engine, lambda c: add_monitor(c, monitor_name("nobodys1-x", "prod"), ip="1.1.1.1"))
    hits = {
        "": {"nlams1", "frpar1", "nobodys1"},
        "frpar": {"frpar1"},
        "9.9.9.9": {"frpar1"},
        "another": {"frpar1"},
        "ick": {"frpar1"},
        "nobodys1": {"nobodys1"},
        "%": set(),
        "_": set(),
        "'": set(),
        "x\x00<script>": set(),
    }
    for text, found in hits.items():
        page = operator.get("/manage?" + urlencode({"q": text}))
        shown = {name for name in ("nlams1", "frpar1", "nobodys1") if f"{name}-" in page.words}
        assert (shown, page.status) == (found, 200), text
    assert "operator of the pool" in operator.get("/manage").words


def test_nobody_else_is_an_operator(log_in: Login, owned: int, foreign: int, sqlite_engine: Engine) -> None:
    named_alike = account(sqlite_engine, "account:operators"[:36])
    for account_id in (owned, named_alike):
        anna = log_in(account_id)
        page = anna.get("/manage?q=")
        assert "All monitors" not in page.words and "operator of the pool" not in page.words
        assert anna.get(f"/manage/monitors/{OTHER}").status == 404

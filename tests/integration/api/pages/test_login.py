"""Test logging in with the key of an account, sessions, and every way in which a form or a cookie is refused."""

import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.engine import Engine

from api.metrics import ApiMetrics
from api.pages.router import pages_router
from api.pages.session import PURPOSE, KeyLogin, Seals, new_session
from auth.api_key_store import add_key, authenticate, revoke_key
from auth.tokens import load_key
from runtime.clock import ClockDoubted
from runtime.db.engine import transaction
from schema.tables import accounts
from testbed.fixtures.pages import (
    SIGNING_KEY,
    Browser,
    ManualTime,
    account_key,
    application,
    browser,
    check_headers,
    services,
)
from testbed.fixtures.registering import NOW, PEPPERS

HOUR = timedelta(hours=1)


@pytest.fixture
def app(sqlite_engine: Engine, now: ManualTime) -> FastAPI:
    return application(services(sqlite_engine, now=now))


@pytest.fixture
def key(sqlite_engine: Engine, owned: int) -> str:
    return account_key(sqlite_engine, owned)


@pytest.fixture
def anna(app: FastAPI) -> Iterator[Browser]:
    with browser(app) as found:
        yield found


def key_id(engine: Engine, key: str) -> int:
    found = authenticate(engine, PEPPERS, key, NOW)
    assert found is not None
    return found.id


def refused_key(anna: Browser, key: str) -> str:
    page = anna.submit(anna.get("/login"), "/login", key=key)
    assert (page.status, page.path, page.focus) == (403, "/login", "key")
    assert anna.get("/manage").path.startswith("/login?"), "nobody is logged in"
    return page.words


# ---- logging in and out ----------------------------------------------------------------------------------------------


def test_key_of_an_account_opens_the_page_that_was_wanted(anna: Browser, key: str) -> None:
    asked = anna.get("/manage/monitors/no-such.prod.mon.example")
    assert asked.path.startswith("/login?") and "ntpa_" in asked.words
    page = anna.submit(asked, "/login", key=f" {key}\t")
    assert (page.status, page.path) == (404, "/manage/monitors/no-such.prod.mon.example")
    assert anna.get("/manage").status == 200
    assert anna.get("/login").path == "/manage", "a person who is logged in need not log in"


def test_key_is_in_no_page_cookie_address_or_log(anna: Browser, key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    page = anna.log_in(key)
    everything = page.answer.text + repr(anna.client.cookies) + page.path + repr(page.answer.history) + caplog.text
    assert key[5:16] not in everything and key[16:] not in everything
    wrong = anna.post("/login", {"key": key}).text
    assert key[5:] not in wrong


@pytest.mark.parametrize("wrong", ["", "x", "ntpa_" + "0" * 64, "ntpa_" + "0" * 63, "' OR 1=1 --", "\x00", "é" * 50])
def test_wrong_key_is_refused(anna: Browser, key: str, wrong: str) -> None:
    assert "not valid" in refused_key(anna, wrong)


def test_key_of_a_host_is_refused(anna: Browser, sqlite_engine: Engine, owned: int) -> None:
    made = transaction(sqlite_engine, lambda c: add_key(c, PEPPERS, NOW, account_id=owned))
    assert "key of a host" in refused_key(anna, made[1].clear)


def test_person_who_logs_out_is_logged_out(anna: Browser, key: str) -> None:
    page = anna.submit(anna.log_in(key), "/logout")
    assert page.path == "/login" and "You are logged out." in page.words
    assert anna.get("/manage").path.startswith("/login?")
    assert "logged out" not in anna.get("/login").words, "a notice is shown once"


def test_logging_out_ends_the_session_also_for_a_copy_of_its_cookie(app: FastAPI, anna: Browser, key: str) -> None:
    page = anna.log_in(key)
    copied = anna.client.cookies["__Host-ntppool-session"]
    with browser(app) as elsewhere, browser(app) as thief:
        elsewhere.log_in(key)
        thief.client.cookies.set("__Host-ntppool-session", copied, domain="pool.example")
        assert thief.get("/manage").path == "/manage"
        anna.submit(page, "/logout")
        assert thief.get("/manage").path.startswith("/login?")
        assert thief.submit(page, "/logout").path == "/login", "logging out again does no harm"
        assert elsewhere.get("/manage").path == "/manage", "another session of the same key goes on"


def test_session_ends_after_twelve_hours(anna: Browser, key: str, now: ManualTime) -> None:
    anna.log_in(key)
    now.move(12 * HOUR - timedelta(seconds=1))
    assert anna.get("/manage").path == "/manage"
    now.move(timedelta(seconds=1))
    assert anna.get("/manage").path.startswith("/login?")


def test_revoked_key_ends_its_session_at_once(anna: Browser, key: str, sqlite_engine: Engine, now: ManualTime) -> None:
    page = anna.log_in(key)
    number = key_id(sqlite_engine, key)
    transaction(sqlite_engine, lambda c: revoke_key(c, number, now()))
    assert anna.get("/manage").path.startswith("/login?")
    assert anna.submit(page, "/logout").path == "/login"
    assert "not valid" in refused_key(anna, key)


def test_session_of_a_deleted_account_ends(anna: Browser, key: str, sqlite_engine: Engine) -> None:
    anna.log_in(key)
    with sqlite_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.execute(sa.delete(accounts))
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
    assert anna.get("/manage").path.startswith("/login?")


def test_session_of_a_login_that_is_no_longer_configured_ends(
    anna: Browser, key: str, sqlite_engine: Engine, now: ManualTime
) -> None:
    anna.log_in(key)
    provider: dict[str, Any] = {
        "oidc_issuer": "https://login.example",
        "oidc_client_id": "x",
        "oidc_client_secret": "y" * 20,
    }
    with browser(application(services(sqlite_engine, now=now, **provider))) as later:
        later.client.cookies.update(anna.client.cookies)
        assert later.get("/manage").path.startswith("/login?")
        assert later.post("/login", {"key": key}).status_code in (404, 405), "a key is no login there"


def test_ten_failed_logins_lock_a_network_for_ten_minutes(
    app: FastAPI, anna: Browser, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[str] = []
    monkeypatch.setattr(ApiMetrics, "refused", lambda _, kind: kinds.append(kind))
    for _ in range(10):
        refused_key(anna, "wrong")
    page = anna.submit(anna.get("/login"), "/login", key=key)
    assert page.status == 429 and page.answer.headers["retry-after"] == "600"
    assert kinds == ["login"] * 10 + ["too_many_logins"], "operators see them"
    assert anna.post("/login", {}).status_code == 403 and kinds[-1] == "form"
    with browser(app, "2001:4860:4860::8844") as bert:
        assert bert.log_in(key).status == 200, "others are not concerned"


# ---- cookies ---------------------------------------------------------------------------------------------------------


def cookie_of(anna: Browser, key_number: int, seals: Seals, now: ManualTime) -> str:
    anna.client.cookies.clear()
    anna.client.cookies.set(
        "__Host-ntppool-session", seals.seal_session(new_session(now(), KeyLogin(key_number))), domain="pool.example"
    )
    return anna.get("/manage").path


def test_forged_cookie_is_refused(anna: Browser, owned: int, key: str, sqlite_engine: Engine, now: ManualTime) -> None:
    number = key_id(sqlite_engine, key)
    assert cookie_of(anna, number, Seals(SIGNING_KEY.derive_secret(PURPOSE)), now) == "/manage", "as we make them"
    forgers = [
        Seals(load_key("another key that signs tokens, and is longer than 48").derive_secret(PURPOSE)),
        Seals(SIGNING_KEY.derive_secret("something else")),
        Seals(SIGNING_KEY.verification_text().encode()),
        Seals(b""),
    ]
    for seals in forgers:
        assert cookie_of(anna, number, seals, now).startswith("/login?")
    host_key, _ = transaction(sqlite_engine, lambda c: add_key(c, PEPPERS, NOW, account_id=owned))
    for other in (host_key, host_key + 1):
        assert cookie_of(anna, other, Seals(SIGNING_KEY.derive_secret(PURPOSE)), now).startswith("/login?")


@pytest.mark.parametrize("value", ["", "x", ".", "e30.e30", "A" * 3_000, "e30=." + "A" * 43])
def test_hostile_cookie_is_no_session(anna: Browser, value: str) -> None:
    for name in ("session", "login"):
        anna.client.cookies.set(f"__Host-ntppool-{name}", value, domain="pool.example")
    assert anna.get("/manage").path.startswith("/login?")


def test_cookie_of_plain_http_is_not_accepted_over_tls(app: FastAPI, key: str) -> None:
    with browser(app, site="http://localhost:8086") as local:
        local.log_in(key)
        [name] = [cookie.name for cookie in local.client.cookies.jar]
        assert name == "ntppool-session"
        value = local.client.cookies[name]
    with browser(app) as anna:
        anna.client.cookies.set("ntppool-session", value, domain="pool.example")
        assert anna.get("/manage").path.startswith("/login?"), "another host of the domain can set it"


def test_login_begins_a_new_session(anna: Browser, key: str) -> None:
    """Nobody can make a person use a session that they know (fixation)."""
    anna.get("/login")
    before = anna.client.cookies["__Host-ntppool-session"]
    page = anna.log_in(key)
    token = page.form("/logout").fields["form_token"]
    anna.client.cookies.set("__Host-ntppool-session", before, domain="pool.example")
    assert anna.get("/manage").form("/login").fields["form_token"] != token


# ---- forms -----------------------------------------------------------------------------------------------------------


def posts(engine: Engine) -> list[str]:
    """Return the paths of all forms."""
    router = pages_router(services(engine))
    return [
        re.sub(r"\{token\}", "0" * 32, route.path).replace("{name}", "x.prod.mon.example")
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
    ]


def test_every_form_needs_the_token_of_its_session_and_our_origin(
    app: FastAPI, anna: Browser, key: str, sqlite_engine: Engine
) -> None:
    token = anna.log_in(key).form("/logout").fields["form_token"]
    with browser(app) as other:
        foreign = other.log_in(key).form("/logout").fields["form_token"]
    paths = posts(sqlite_engine)
    assert len(paths) == 6
    wrong_tokens = [{}, {"form_token": ""}, {"form_token": foreign}, {"form_token": token[:-1]}, {"form_token": "é"}]
    wrong_origins = [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://pool.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://pool.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://x.pool.example"},
    ]
    for path in paths:
        for fields in wrong_tokens:
            answer = anna.post(path, {"key": key, **fields})
            assert answer.status_code == 403, (path, fields)
            check_headers(answer)
        for headers in wrong_origins:
            answer = anna.post(path, {"form_token": token, "key": key}, headers=headers)
            assert answer.status_code == 403 and "not sent from here" in answer.text, (path, headers)
        right = anna.post(path, {"form_token": token, "key": "x"}, headers={"Origin": "https://pool.example"})
        assert "not sent from here" not in right.text and "no longer valid" not in right.text, path
        if path == "/logout":
            token = anna.log_in(key).form("/logout").fields["form_token"]


def test_form_sent_after_the_session_has_ended_leads_to_the_login(anna: Browser) -> None:
    for path in ("/manage/monitors/x.prod.mon.example/move", f"/manage/monitors/confirm/{'0' * 32}/reject"):
        answer = anna.post(path, {})
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login?next=%2Fmanage%2Fmonitors")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe=\x00&form_token=%ff%fe",
        b"form_token=" + b"x" * 10_000,
        b"&&&===" * 100,
        b'{"form_token": "x"}',
        b"--x\r\nContent-Disposition: form-data; name=form_token; filename=a\r\n\r\nx\r\n--x--",
    ],
)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"])
def test_hostile_form_is_refused_with_a_page(anna: Browser, key: str, body: bytes, kind: str) -> None:
    anna.log_in(key)
    headers = {"Content-Type": kind, "Sec-Fetch-Site": "same-origin"}
    answer = anna.send("POST", "/logout", headers, content=body)
    assert answer.status_code in (400, 403, 422)
    check_headers(answer)


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "/manage//evil.example", "javascript:x"]
)
def test_login_leads_to_no_other_site(anna: Browser, key: str, target: str) -> None:
    page = anna.get("/login")
    fields = {**page.form("/login").fields, "key": key}
    answer = anna.post("/login", {**fields, "next": target})
    assert (answer.status_code, answer.headers["location"]) == (303, "/manage")
    assert target not in anna.send("GET", "/login", params={"next": target}).headers["location"]


def test_public_address_of_the_settings_is_our_origin(sqlite_engine: Engine, key: str) -> None:
    behind_a_proxy = application(services(sqlite_engine, api_url="https://agents.pool.example"))
    with browser(behind_a_proxy) as anna:
        fields = {**anna.get("/login").form("/login").fields, "key": key}
        assert anna.post("/login", fields, headers={"Origin": "https://pool.example"}).status_code == 403
        assert anna.post("/login", fields, headers={"Origin": "https://agents.pool.example"}).status_code == 303


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_unknown_address_has_a_page(anna: Browser) -> None:
    assert anna.get("/manage/nothing/here").status == 404


def test_style_is_served_with_its_version_in_the_name(anna: Browser) -> None:
    [path] = re.findall(r'href="(/manage/style-[0-9a-f]{12}\.css)"', anna.send("GET", "/login").text)
    answer = anna.send("GET", path)
    assert answer.headers["content-type"].startswith("text/css") and "immutable" in answer.headers["cache-control"]
    assert "url(" not in answer.text and "@import" not in answer.text, "nothing else is loaded"


def test_unavailable_database_has_a_page_and_loses_no_session(anna: Browser, key: str, sqlite_engine: Engine) -> None:
    anna.log_in(key)
    file = str(sqlite_engine.url.database)
    sqlite_engine.dispose()
    Path(file).rename(file + ".away")
    page = anna.get("/manage")
    assert page.status == 503 and "database" in page.words
    Path(file + ".away").rename(file)
    assert anna.get("/manage").status == 200


def test_defect_has_a_page_and_its_log_contains_nothing_of_the_request(
    anna: Browser, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    anna.log_in(key)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a secret of the request")

    monkeypatch.setattr("api.pages.confirm.found", fail)
    page = anna.get("/manage/monitors/confirm/" + "0123456789abcdef" * 2)
    assert page.status == 500 and "secret" not in page.answer.text
    assert "/manage/monitors/confirm/{token}" in caplog.text and "ValueError at" in caplog.text
    assert "secret" not in caplog.text and "0123456789abcdef" not in caplog.text


def test_doubted_clock_has_a_page(anna: Browser, key: str, now: ManualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    anna.log_in(key)

    def doubted(_: ManualTime) -> None:
        raise ClockDoubted("the database's clock differs")

    monkeypatch.setattr(ManualTime, "__call__", doubted)
    for path in ("/manage", "/login"):
        assert anna.get(path).status == 503

"""Test logging in at a provider of OpenID Connect, against a real one on loopback, and every answer to be refused."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from api.pages.oidc import Provider
from auth.users import add_to_account, remove_from_account
from runtime.db.engine import transaction
from schema.tables import user_identities, users
from testbed.fixtures.pages import Browser, ManualTime, Page, application, browser, read_page, services
from testbed.fixtures.registering import account
from testbed.oidc_provider import CLIENT_SECRET, OidcProvider, new_key, oidc_provider

EMAIL = "anna@example.org"


@pytest.fixture(params=["RS256", "ES256"])
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with oidc_provider(algorithm="ES256") as found:
        yield found


@pytest.fixture
def owned(sqlite_engine: Engine) -> int:
    """Return an account to which Anna belongs."""
    found = account(sqlite_engine, "4xhq2c9")
    transaction(sqlite_engine, lambda c: add_to_account(c, found, EMAIL))
    return found


def pages_at(engine: Engine, provider: OidcProvider, **settings: Any) -> FastAPI:
    """Return the pages; the time is the real one, since the provider's is."""
    return application(services(engine, now=ManualTime(datetime.now(UTC)), **provider.settings, **settings))


@pytest.fixture
def anna(sqlite_engine: Engine, provider: OidcProvider, owned: int) -> Iterator[Browser]:
    with browser(pages_at(sqlite_engine, provider)) as found:
        yield found


def to_provider(anna: Browser, path: str = "/manage") -> str:
    """Follow the link on the login page, and return the address at the provider."""
    page = anna.get(path)
    [link] = [one for one in page.links if one.startswith("/login/start")]
    answer = anna.send("GET", link)
    assert answer.status_code == 303
    return answer.headers["location"]


def at_provider(url: str) -> str:
    """Let the provider answer, and return the path with which the browser comes back."""
    answer = httpx.get(url, trust_env=False, verify=False)  # loading roots, for no TLS, takes longer than the test
    assert answer.status_code == 302, answer.text
    back = urlsplit(answer.headers["location"])
    assert f"{back.scheme}://{back.netloc}{back.path}" == "https://pool.example/login/callback"
    return f"{back.path}?{back.query}"


def come_back(anna: Browser, path: str) -> Page:
    return anna._follow(anna.send("GET", path, {"Sec-Fetch-Site": "cross-site"}))


def log_in(anna: Browser, path: str = "/manage") -> Page:
    return come_back(anna, at_provider(to_provider(anna, path)))


def log_in_again(anna: Browser) -> Page:
    anna.client.cookies.clear()
    return log_in(anna)


def refused(anna: Browser, status: int = 403) -> str:
    """Try to log in in vain, and return the words of the page."""
    page = log_in(anna)
    assert page.status == status, page.words
    assert "/login?next=%2Fmanage" in page.links, "there is a way to try again"
    assert anna.get("/manage").path.startswith("/login?"), "nobody is logged in"
    return page.words


# ---- the way in ------------------------------------------------------------------------------------------------------


def test_person_logs_in_and_sees_their_accounts(sqlite_engine: Engine, owned: int, algorithm: str) -> None:
    with oidc_provider(algorithm=algorithm) as provider, browser(pages_at(sqlite_engine, provider)) as anna:
        page = log_in(anna, "/manage/monitors/no-such.prod.mon.example")
        assert (page.path == "/manage/monitors/no-such.prod.mon.example" and EMAIL in page.words) or page.status == 404
        overview = anna.get("/manage")
        assert EMAIL in overview.words and "ntppool-agent setup -a 4xhq2c9" in overview.words
        assert provider.refused == []
        assert anna.submit(overview, "/logout").path == "/login"
        assert anna.get("/manage").path.startswith("/login?")


def test_request_has_state_nonce_and_pkce_and_no_secret(anna: Browser) -> None:
    first, second = (parse_qs(urlsplit(to_provider(anna)).query) for _ in range(2))
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name] and len(first[name][0]) >= 43
    assert first["code_challenge_method"] == ["S256"] and first["response_type"] == ["code"]
    assert set(first["scope"][0].split()) == {"openid", "email"}
    assert CLIENT_SECRET not in str(first)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_client_authenticates_as_the_provider_wants(anna: Browser, provider: OidcProvider, method: str) -> None:
    provider.auth_methods = [method]
    assert log_in(anna).status == 200


def test_address_may_be_in_the_user_info_only(anna: Browser, provider: OidcProvider) -> None:
    provider.email_in_token = False
    assert log_in(anna).status == 200


def test_person_is_known_by_subject_once_linked(anna: Browser, provider: OidcProvider, sqlite_engine: Engine) -> None:
    log_in(anna)
    provider.person = {"sub": provider.person["sub"], "email": "new@example.org", "email_verified": False}
    page = log_in_again(anna)
    assert page.status == 200 and EMAIL in page.words
    with sqlite_engine.connect() as connection:
        assert connection.execute(sa.select(user_identities.c.subject)).all() == [("248289761001",)]


def test_provider_may_replace_its_key(anna: Browser, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.pages.oidc._NEW_KEYS_SECONDS", 0.0)
    log_in(anna)
    log_in_again(anna)
    assert provider.asked.count("/jwks") == provider.asked.count("/.well-known/openid-configuration") == 1
    provider.replace_key()
    assert log_in_again(anna).status == 200
    assert provider.asked.count("/jwks") == 2


# ---- people who are not known ----------------------------------------------------------------------------------------


def test_unknown_person_is_told_what_to_do(anna: Browser, provider: OidcProvider, sqlite_engine: Engine) -> None:
    provider.person = {"sub": "1", "email": "x<b>@example.org", "email_verified": True}
    words = refused(anna)
    assert "x<b>@example.org" in words and "Ask an operator of the pool" in words
    with sqlite_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(users)) == 1, "nobody becomes a user like that"


@pytest.mark.parametrize("verified", [False, None, "true", 1])
def test_address_that_is_not_verified_is_refused(anna: Browser, provider: OidcProvider, verified: object) -> None:
    provider.person = {"sub": "1", "email": EMAIL, "email_verified": verified}
    assert "not verified" in refused(anna)


def test_another_login_with_the_address_of_a_user_is_refused(anna: Browser, provider: OidcProvider) -> None:
    log_in(anna)
    provider.person = {"sub": "another", "email": EMAIL, "email_verified": True}
    anna.client.cookies.clear()
    assert "another login" in refused(anna)


def test_deleted_user_is_refused_and_a_session_ends(anna: Browser, sqlite_engine: Engine) -> None:
    assert log_in(anna).status == 200
    gone = sa.update(users).values(deletion_on=datetime(2026, 1, 1))
    transaction(sqlite_engine, lambda c: c.execute(gone))
    assert anna.get("/manage").path.startswith("/login?")
    assert "deleted" in refused(anna)


def test_person_loses_an_account_at_once(anna: Browser, sqlite_engine: Engine, owned: int) -> None:
    log_in(anna)
    transaction(sqlite_engine, lambda c: remove_from_account(c, owned, EMAIL))
    page = anna.get("/manage")
    assert "4xhq2c9" not in page.words and "belong to no account" in page.words and EMAIL in page.words


def test_unlinked_login_ends_its_session(anna: Browser, sqlite_engine: Engine) -> None:
    log_in(anna)
    transaction(sqlite_engine, lambda c: c.execute(sa.delete(user_identities)))
    assert anna.get("/manage").path.startswith("/login?")


@pytest.mark.parametrize(
    ("operators", "is_one"),
    [
        ("anna@example.org", True),
        ("ANNA@example.org", True),
        ("bo@example.org, subject:248289761001", True),
        ("subject:1", False),
        ("account:4xhq2c9", False),
        ("account:248289761001", False),
        ("xanna@example.org", False),
    ],
)
def test_operators_are_those_of_the_setting(
    sqlite_engine: Engine, provider: OidcProvider, owned: int, operators: str, is_one: bool
) -> None:
    with browser(pages_at(sqlite_engine, provider, api_operators=operators)) as anna:
        assert ("operator of the pool" in log_in(anna).words) is is_one


def test_address_of_the_ledger_makes_no_operator(sqlite_engine: Engine, provider: OidcProvider, owned: int) -> None:
    with browser(pages_at(sqlite_engine, provider, api_operators=EMAIL)) as anna:
        log_in(anna)
        provider.person = {"sub": provider.person["sub"], "email": EMAIL, "email_verified": False}
        anna.client.cookies.clear()
        page = log_in(anna)
        assert page.status == 200 and "operator of the pool" not in page.words


# ---- answers of a provider that must be refused ----------------------------------------------------------------------


def changed(**claims: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda usual: {**usual, **claims}


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "wrong"},
        {"nonce": None},
        {"aud": "another client"},
        {"aud": ["another client"], "azp": "ntppool-pages"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"iat": 4_000_000_000},
        {"sub": None},
        {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    ],
    ids=str,
)
def test_token_for_something_else_is_refused(anna: Browser, provider: OidcProvider, claims: dict[str, Any]) -> None:
    provider.alter_claims = changed(**claims)
    assert "not valid" in refused(anna)


def test_token_that_another_key_has_signed_is_refused(anna: Browser, provider: OidcProvider) -> None:
    provider.signs_with = new_key("ES256")
    assert "not valid" in refused(anna)


@pytest.mark.parametrize(
    "answer", [{}, {"id_token": None}, {"id_token": 7}, {"id_token": "x.y.z"}, {"access_token": None}]
)
def test_answer_without_a_usable_token_is_refused(
    anna: Browser, provider: OidcProvider, answer: dict[str, Any]
) -> None:
    provider.alter_token = lambda usual: {**usual, **answer} if answer else {}
    assert "not valid" in refused(anna)


def test_user_info_about_someone_else_is_refused(anna: Browser, provider: OidcProvider) -> None:
    provider.email_in_token = False
    provider.user_info = {"sub": "someone else"}
    assert "not valid" in refused(anna)


@pytest.mark.parametrize("path", ["/token", "/jwks", "/.well-known/openid-configuration", "/userinfo"])
def test_provider_that_does_not_answer_has_a_page(anna: Browser, provider: OidcProvider, path: str) -> None:
    provider.email_in_token = False
    provider.broken = {path}
    if path == "/.well-known/openid-configuration":
        assert anna.get("/login/start").status == 503
    else:
        assert "does not answer" in refused(anna, 503)
    provider.broken = set()
    assert log_in(anna).status == 200


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"authorization_endpoint": None},
        {"authorization_endpoint": "http://evil.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_metadata_of_another_issuer_or_without_tls_are_refused(
    anna: Browser, provider: OidcProvider, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    assert anna.get("/login/start").status == 503


# ---- answers that did not come from this login -----------------------------------------------------------------------


def test_code_is_for_the_browser_that_asked(anna: Browser, sqlite_engine: Engine, provider: OidcProvider) -> None:
    """Otherwise, someone could log another person in as themselves."""
    path = at_provider(to_provider(anna))
    with browser(pages_at(sqlite_engine, provider)) as other:
        assert come_back(other, path).status == 400
        to_provider(other)
        assert come_back(other, path).status == 400, "its state is that of another login"
        assert other.get("/manage").path.startswith("/login?")
    assert come_back(anna, path).status == 200
    assert come_back(anna, path).status == 400, "and only once"


@pytest.mark.parametrize("state", ["", "x", "\ud800".encode("utf-8", "replace").decode(), "é" * 40, "x" * 500])
def test_wrong_state_is_refused(anna: Browser, provider: OidcProvider, state: str) -> None:
    path = at_provider(to_provider(anna))
    code = parse_qs(urlsplit(path).query)["code"][0]
    answer = anna.send("GET", "/login/callback", params={"code": code, "state": state})
    assert read_page(answer).status in (400, 422)
    assert "/token" not in provider.asked


def test_answer_of_another_issuer_is_refused(anna: Browser, provider: OidcProvider) -> None:
    path = re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Fevil.example", at_provider(to_provider(anna)))
    assert come_back(anna, path).status == 400
    assert "/token" not in provider.asked


def test_person_who_does_not_agree_is_not_logged_in(anna: Browser, provider: OidcProvider) -> None:
    provider.denies = True
    assert "did not log you in" in refused(anna)


def test_login_begun_more_than_ten_minutes_ago_has_ended(
    sqlite_engine: Engine, provider: OidcProvider, owned: int
) -> None:
    now = ManualTime(datetime.now(UTC))
    app = application(services(sqlite_engine, now=now, **provider.settings))
    with browser(app) as anna:
        path = at_provider(to_provider(anna))
        now.moment = now.moment.replace(year=now.moment.year + 1)
        assert come_back(anna, path).status == 400


def test_invented_code_is_refused_and_counted(anna: Browser) -> None:
    for number in range(11):
        state = parse_qs(urlsplit(to_provider(anna)).query)["state"][0]
        answer = anna.send("GET", "/login/callback", params={"code": "invented", "state": state})
        assert read_page(answer).status == (403 if number < 10 else 429)


def test_secret_is_in_no_page_repr_or_log(
    anna: Browser, provider: OidcProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    provider.broken = {"/token"}
    words = refused(anna, 503)
    shown = repr(Provider("https://x", "y", CLIENT_SECRET, lambda: datetime.now(UTC)))
    assert CLIENT_SECRET not in words + shown + caplog.text

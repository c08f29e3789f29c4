"""Test every route in this process, on SQLite: the exact answers for both kinds of agents, and hostile requests."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.engine import Engine

import auth.certificates
from agent.api_messages import decode_certificate, decode_config, decode_registration, decode_token
from api.jobs import end_registrations
from auth.access_tokens import verify_access
from auth.api_key_store import add_key, replace_keys, revoke_key
from auth.api_keys import Audience
from auth.ended_sessions import end_session, has_ended
from auth.registration.model import Confirmed, Outcome
from runtime.clock import ClockDoubted
from runtime.db.engine import reading, transaction
from schema.tables import api_keys, certificates, host_certificates, metadata, monitors
from testbed.fixtures.api import (
    ACCESS,
    CERTIFICATE,
    CONFIG,
    REGISTRATION,
    SECRET,
    TOKEN,
    V4,
    V6,
    Api,
    Clock,
    add_host,
    make_api,
)
from testbed.fixtures.certificates import greedy_extensions, leaf_of, names_of, request_pem, verified
from testbed.fixtures.registering import OPERATOR, account, new_id, token_of_url

MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(sqlite_engine: Engine, tmp_path: Path, clock: Clock) -> Api:
    return make_api(sqlite_engine, tmp_path, now=clock)


async def register(api: Api, number: str, peer: str = V4, **more: Any) -> Any:
    headers = {"Registration-ID": number, "User-Agent": "ntppool-agent/v9"} | more.pop("headers", {})
    body = more.pop("body", b"hostname=host.example.net")
    if body:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    return await api.ask("POST", REGISTRATION, peer=peer, body=body, headers=headers, **more)


def assert_words(answer: Any, status: int) -> None:
    """Check a refusal as both kinds of agents need it: plain text, one sentence or more."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.endswith("\n") and len(answer.text) > 10


# ---- registration ----------------------------------------------------------------------------------------------------


async def test_a_host_is_registered_and_its_key_repeated_for_ten_minutes(api: Api, clock: Clock) -> None:
    owned, number = account(api.services.engine, "4xhq2c9"), new_id().clear
    first = await register(api, number, V6, body=b"a=4xhq2c9&hostname=h")
    assert (first.status_code, first.headers["content-type"]) == (200, "application/json")
    assert set(first.json()) == {"URL", "Status"} and first.json()["Status"] == "pending"
    url = first.json()["URL"]
    assert url.startswith("http://127.0.0.1:8086/manage/monitors/confirm/") and number not in first.text
    assert (await register(api, number, V4)).json() == first.json()
    these = api.services.registrations
    shown = these.show(token_of_url(url), OPERATOR, clock())
    assert shown is not None
    assert (shown.ip4, shown.ip6, shown.hostname, shown.client) == (V4, V6, "h", "ntppool-agent/v9")
    assert shown.account_id == owned
    done = these.confirm(token_of_url(url), account_id=owned, location="nlams", by=OPERATOR, now=clock())
    assert isinstance(done, Confirmed)
    accepted = (await register(api, number)).json()
    assert set(accepted) == {"URL", "Status", "APIToken"} and accepted["Status"] == "accepted"
    assert (await register(api, number.lower())).json() == accepted
    config = decode_config((await api.ask("GET", CONFIG, key=accepted["APIToken"])).content, "prod")
    assert config.tls_name == done.name
    assert {ipv: (one.ip, one.status) for ipv, one in config.protocols.items()} == {
        "v4": (V4, "pending"),
        "v6": (V6, "pending"),
    }
    clock.now += 10 * MINUTE
    over = await register(api, number)
    assert over.json() == {"URL": url, "Status": "completed"}
    assert decode_registration(over.content).status == "completed"


async def test_setup_with_a_key_renews_the_monitor_of_that_key(api: Api, clock: Clock) -> None:
    host = add_host(api, "nlams1-a", ips={"v4": V4})
    number = new_id().clear
    url = (await register(api, number, V4, key=host.key.clear)).json()["URL"]
    await register(api, number, V6, key=host.key.clear)
    shown = api.services.registrations.show(token_of_url(url), OPERATOR, clock())
    assert shown is not None and shown.renews and shown.name == host.name
    api.services.registrations.confirm(
        token_of_url(url), account_id=host.account_id, location="", choice=Outcome.NEW_KEY, by=OPERATOR, now=clock()
    )
    key = (await register(api, number)).json()["APIToken"]
    protocols = (await api.ask("GET", CONFIG, key=key)).json()
    assert (protocols["tls_name"], protocols["ipv4"]["ip"], protocols["ipv6"]["ip"]) == (host.name, V4, V6)
    assert (await api.ask("GET", CONFIG, key=host.key.clear)).status_code == 200, "the former key lasts ten minutes"
    clock.now += 10 * MINUTE
    assert_words(await api.ask("GET", CONFIG, key=host.key.clear), 401)
    # A key that is not valid does not spoil a registration.
    assert (await register(api, new_id().clear, "9.9.9.9", key=host.key.clear)).json()["Status"] == "pending"


@pytest.mark.parametrize(
    ("headers", "body", "peer", "status"),
    [
        ({"Registration-ID": ""}, b"", V4, 400),
        ({"Registration-ID": "8" + "0" * 25}, b"", V4, 400),
        ({"Registration-ID": "x" * 5000}, b"", V4, 400),
        ({}, b"hostname=a&hostname=b", V4, 400),
        ({}, b"hostname=%00", V4, 400),
        ({}, b"hostname=<script>", V4, 400),
        ({}, b"hostname=" + b"a" * 300, V4, 400),
        ({}, b"a=unknown", V4, 403),
        ({}, b"a=%27%20OR%201=1", V4, 403),
        ({}, b"", "10.1.2.3", 403),
        ({}, b"", "::1", 403),
        ({}, b"x" * 70_000, V4, 413),
    ],
)
async def test_refused_registrations_are_told_in_words_and_store_nothing(
    api: Api, headers: dict[str, str], body: bytes, peer: str, status: int
) -> None:
    number = headers.get("Registration-ID", new_id().clear)
    assert_words(await register(api, number, peer, body=body), status)
    with reading(api.services.engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(metadata.tables["monitor_registrations"])) == 0


async def test_two_ids_in_one_request_are_refused(api: Api) -> None:
    twice = [("Registration-ID", new_id().clear), ("Registration-ID", new_id().clear)]
    assert_words(await api.ask("POST", REGISTRATION, headers=twice), 400)


async def test_the_end_of_a_registration_is_told_in_words(api: Api, clock: Clock) -> None:
    rejected, old, moved = new_id().clear, new_id().clear, new_id().clear
    url = (await register(api, rejected)).json()["URL"]
    api.services.registrations.reject(token_of_url(url), by=OPERATOR, reason="unknown owner", now=clock())
    answer = await register(api, rejected)
    assert_words(answer, 403)
    assert "unknown owner" in answer.text
    await register(api, moved)
    assert_words(await register(api, moved, "9.9.9.9"), 409)
    await register(api, old)
    clock.now += timedelta(hours=24)
    assert_words(await register(api, old), 410)


async def test_the_eleventh_registration_of_an_hour_is_refused(api: Api) -> None:
    for _ in range(10):
        assert (await register(api, new_id().clear)).status_code == 200
    assert_words(await register(api, new_id().clear), 429)


async def test_the_address_is_that_of_the_client_of_a_trusted_proxy(
    sqlite_engine: Engine, tmp_path: Path, clock: Clock
) -> None:
    api = make_api(sqlite_engine, tmp_path, now=clock, api_trusted_proxies="127.0.0.1")
    url = (await register(api, new_id().clear, "127.0.0.1", headers={"X-Forwarded-For": f"1.1.1.1, {V4}"})).json()[
        "URL"
    ]
    shown = api.services.registrations.show(token_of_url(url), OPERATOR, clock())
    assert shown is not None and shown.ip4 == V4
    forged = await register(api, new_id().clear, V6, headers={"X-Forwarded-For": "1.1.1.1"})
    shown = api.services.registrations.show(token_of_url(forged.json()["URL"]), OPERATOR, clock())
    assert shown is not None and (shown.ip4, shown.ip6) == ("", V6)
    assert_words(await register(api, new_id().clear, "127.0.0.1", headers={"X-Forwarded-For": "1.1.1.1, x"}), 400)
    assert_words(await register(api, new_id().clear, "127.0.0.1"), 503)


# ---- API keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", CONFIG), ("GET", f"{CONFIG}?request_certificate=true")),
        *(("POST", TOKEN), ("POST", ACCESS), ("POST", CERTIFICATE)),
    ],
)
async def test_401_is_for_keys_that_are_not_valid_and_for_nothing_else(
    api: Api, clock: Clock, method: str, path: str
) -> None:
    body = request_pem(ec.generate_private_key(ec.SECP256R1())).encode() if path == CERTIFICATE else None
    good, revoked, replaced = (add_host(api, f"nlams{number}-a") for number in range(3))
    services = api.services

    def of_account(connection: Any) -> str:
        return add_key(connection, services.peppers, clock(), audience=Audience.ACCOUNT, account_id=good.account_id)[
            1
        ].clear

    pages_key = transaction(services.engine, of_account)
    transaction(services.engine, lambda c: revoke_key(c, revoked.key_id, clock()))
    transaction(services.engine, lambda c: replace_keys(c, [replaced.key_id], clock()))
    clock.now += 11 * MINUTE
    flipped = good.key.clear[:-1] + ("0" if good.key.clear[-1] != "0" else "1")
    for key in (None, "", "x", flipped, good.key.clear.upper(), revoked.key.clear, replaced.key.clear, pages_key):
        answer = await api.ask(method, path, key=key, body=body)
        assert_words(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await api.ask(method, path, key=good.key.clear, body=body)).status_code == 200
    both = [("Authorization", f"Bearer {good.key.clear}")] * 2
    assert_words(await api.ask(method, path, body=body, headers=both), 401)


@pytest.mark.parametrize(
    ("statuses", "config", "token", "certificate", "access"),
    [
        ({"v4": "pending"}, 200, 403, 200, 200),
        ({"v4": "paused"}, 200, 200, 200, 200),
        ({"v4": "active", "v6": "deleted"}, 200, 200, 200, 200),
        ({"v4": "deleted", "v6": "deleted"}, 200, 403, 403, 403),
    ],
)
async def test_what_a_monitor_gets_depends_on_its_status(
    api: Api, statuses: dict[str, Any], config: int, token: int, certificate: int, access: int
) -> None:
    host = add_host(api, "nlams1-a", statuses)
    request = request_pem(ec.generate_private_key(ec.SECP256R1())).encode()
    key = host.key.clear
    said = await api.ask("GET", CONFIG, key=key)
    assert said.status_code == config
    assert {ipv: said.json()[f"ip{ipv}"]["status"] for ipv in statuses} == statuses
    for path, body, expected in ((TOKEN, b"{}", token), (CERTIFICATE, request, certificate), (ACCESS, b"", access)):
        answer = await api.ask("POST", path, key=key, body=body)
        if expected == 200:
            assert answer.status_code == 200, answer.text
        else:
            assert_words(answer, expected)
            assert host.name in answer.text


# ---- configuration, token, certificate -------------------------------------------------------------------------------


async def test_configuration_is_sent_again_only_if_it_changed(api: Api) -> None:
    host = add_host(api, "nlams1-a")
    first = await api.ask("GET", CONFIG, key=host.key.clear)
    known = {"If-None-Match": first.headers["etag"]}
    again = await api.ask("GET", CONFIG, key=host.key.clear, headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    change = sa.update(monitors).where(monitors.c.id == host.monitor_ids[0]).values(status="paused")
    transaction(api.services.engine, lambda c: c.execute(change))
    assert (await api.ask("GET", CONFIG, key=host.key.clear, headers=known)).json()["ipv4"]["status"] == "paused"
    assert_words(await api.ask("GET", CONFIG, key="x", headers=known), 401)


async def test_the_token_is_that_of_the_keys_monitor_for_six_hours(api: Api, clock: Clock) -> None:
    for host in (add_host(api, "nlams1-a"), add_host(api, "nlams2-a")):
        answer = await api.ask("POST", TOKEN, key=host.key.clear, body=b"{}")
        assert answer.headers["cache-control"] == "no-store"
        found = decode_token(answer.content)
        claims = jwt.decode(found.token, SECRET, algorithms=["HS384"])
        assert (claims["sub"], claims["role"]) == (host.name, "monitor")
        assert found.expires_on.timestamp() == claims["exp"] == int(clock().timestamp()) + 6 * 3600


async def test_the_certificate_is_for_the_name_whatever_the_request_says(api: Api, tmp_path: Path) -> None:
    host = add_host(api, "nlams1-a", {"v4": "pending"})
    greedy = request_pem(ec.generate_private_key(ec.SECP256R1()), *greedy_extensions("other.prod.mon.example"))
    answer = await api.ask("POST", CERTIFICATE, key=host.key.clear, body=greedy.encode())
    chain = decode_certificate(answer.content)
    assert names_of(leaf_of(chain)) == [host.name]
    bundle = (await api.ask("GET", "/monitor/api/ca.pem")).text
    assert verified(tmp_path, chain, bundle, "-purpose", "sslclient") == ""
    again = await api.ask("POST", CERTIFICATE, key=host.key.clear, body=greedy.encode())
    assert again.json() == answer.json(), "a lost answer costs no further certificate"


@pytest.mark.parametrize("body", [b"", b"x", b"\xff" * 100, b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"{}"])
async def test_a_malformed_signing_request_is_refused(api: Api, body: bytes) -> None:
    host = add_host(api, "nlams1-a")
    assert_words(await api.ask("POST", CERTIFICATE, key=host.key.clear, body=body), 400)


async def test_an_environment_may_have_no_ca(sqlite_engine: Engine, tmp_path: Path) -> None:
    api = make_api(sqlite_engine, tmp_path, ca=False)
    host = add_host(api, "nlams1-a")
    request = request_pem(ec.generate_private_key(ec.SECP256R1())).encode()
    assert_words(await api.ask("POST", CERTIFICATE, key=host.key.clear, body=request), 404)
    config = await api.ask("GET", f"{CONFIG}?request_certificate=true", key=host.key.clear)
    assert config.status_code == 200 and "tls" not in config.json()
    for path in ("/monitor/api/ca.pem", "/monitor/api/crl.pem"):
        assert_words(await api.ask("GET", path), 404)


async def test_a_ca_that_cannot_be_used_is_503(api: Api) -> None:
    host = add_host(api, "nlams1-a")
    [root] = api.services.authority.directory.glob("root-*")  # type: ignore[attr-defined]  # a CA in files
    root.chmod(0o644)
    request = request_pem(ec.generate_private_key(ec.SECP256R1())).encode()
    answer = await api.ask("POST", CERTIFICATE, key=host.key.clear, body=request)
    assert_words(answer, 503)
    assert str(root) not in answer.text


# ---- agents of the older protocol ------------------------------------------------------------------------------------


async def test_older_agents_get_key_and_certificate_the_same_for_ten_minutes(
    api: Api, clock: Clock, tmp_path: Path
) -> None:
    host, other = add_host(api, "nlams1-a"), add_host(api, "nlams2-a")
    wanted = f"{CONFIG}?request_certificate=true"
    first = await api.ask("GET", wanted, key=host.key.clear)
    assert "etag" not in first.headers and first.headers["cache-control"] == "no-store"
    tls = first.json()["tls"]
    key = load_pem_private_key(tls["key"].encode(), None)
    leaf = leaf_of(tls["cert"])
    assert key.public_key() == leaf.public_key() and names_of(leaf) == [host.name]
    assert verified(tmp_path, tls["cert"], (await api.ask("GET", "/monitor/api/ca.pem")).text) == ""
    assert (await api.ask("GET", wanted, key=host.key.clear)).json()["tls"] == tls
    assert (await api.ask("GET", wanted, key=other.key.clear)).json()["tls"] != tls
    assert "tls" not in (await api.ask("GET", CONFIG, key=host.key.clear)).json()
    with reading(api.services.engine) as connection:
        rows = [tuple(row) for row in connection.execute(sa.select(host_certificates))]
        stored = [tuple(row) for table in (api_keys, certificates) for row in connection.execute(sa.select(table))]
    assert "PRIVATE" not in repr((rows, stored)) and host.key.clear not in repr((rows, stored))
    clock.now += 10 * MINUTE
    renewed = (await api.ask("GET", wanted, key=host.key.clear)).json()["tls"]
    assert renewed["cert"] != tls["cert"] and renewed["key"] != tls["key"]


async def test_older_agents_get_a_token_of_an_hour(api: Api, clock: Clock) -> None:
    host = add_host(api, "nlams1-a")
    answer = await api.ask("POST", ACCESS, key=host.key.clear, body=b'{"expires_in":3600}')
    assert answer.status_code == 200
    found = answer.json()
    assert (found["token_type"], found["expires_in"], set(found)) == (
        "Bearer",
        3600,
        {"access_token", "token_type", "expires_in"},
    )
    signing_key = api.services.signing_key
    name = verify_access(signing_key, found["access_token"], "prod", issuer="http://127.0.0.1:8086", now=clock())
    assert name == host.name
    for wrong in (b"x", b"[]", b'{"expires_in": "long"}', b"\xff", b"[" * 5000):
        assert_words(await api.ask("POST", ACCESS, key=host.key.clear, body=wrong), 400)


# ---- everybody -------------------------------------------------------------------------------------------------------


async def test_the_root_says_what_this_is_and_other_addresses_are_refused_in_words(api: Api) -> None:
    root = await api.ask("GET", "/")
    assert root.status_code == 200 and root.text.count("\n") == 1 and "/manage" in root.text
    assert_words(await api.ask("GET", "/nothing"), 404)
    assert_words(await api.ask("GET", "/monitor/api/config/"), 404)
    assert_words(await api.ask("GET", REGISTRATION), 405)
    assert_words(await api.ask("PUT", CONFIG), 405)


async def test_a_revocation_is_published(api: Api, clock: Clock, tmp_path: Path) -> None:
    host = add_host(api, "nlams1-a")
    request = request_pem(ec.generate_private_key(ec.SECP256R1())).encode()
    chain = (await api.ask("POST", CERTIFICATE, key=host.key.clear, body=request)).json()["certificate"]
    before = (await api.ask("GET", "/monitor/api/crl.pem")).text
    change = sa.update(certificates).values(revoked_on=clock().replace(tzinfo=None))
    transaction(api.services.engine, lambda c: c.execute(change))
    api.published.refresh(clock())
    after = (await api.ask("GET", "/monitor/api/crl.pem")).text
    serial = leaf_of(chain).serial_number
    assert x509.load_pem_x509_crl(before.encode()).get_revoked_certificate_by_serial_number(serial) is None
    assert x509.load_pem_x509_crl(after.encode()).get_revoked_certificate_by_serial_number(serial) is not None
    assert "revoked" in verified(tmp_path, chain, (await api.ask("GET", "/monitor/api/ca.pem")).text, crl=after)


async def test_a_doubted_clock_signs_nothing(sqlite_engine: Engine, tmp_path: Path) -> None:
    host = add_host(make_api(sqlite_engine, tmp_path), "nlams1-a")

    def doubted() -> Any:
        raise ClockDoubted("apart")

    api = make_api(sqlite_engine, tmp_path)
    object.__setattr__(api.services, "now", doubted)
    for method, path in (("GET", CONFIG), ("POST", TOKEN), ("POST", CERTIFICATE), ("POST", ACCESS)):
        assert_words(await api.ask(method, path, key=host.key.clear), 503)
    assert_words(await register(api, new_id().clear), 503)


async def test_an_unavailable_database_is_503_and_says_nothing_about_keys(api: Api) -> None:
    host = add_host(api, "nlams1-a")
    Path(str(api.services.engine.url.database)).unlink()
    api.services.engine.dispose()
    for method, path in (("GET", CONFIG), ("POST", TOKEN), ("POST", CERTIFICATE), ("POST", ACCESS)):
        assert_words(await api.ask(method, path, key=host.key.clear), 503)
    answer = await register(api, new_id().clear)
    assert_words(answer, 503)
    assert "ledger" not in answer.text
    assert (await api.ask("GET", "/")).status_code == 200


async def test_no_refusal_repeats_what_a_client_sent(api: Api) -> None:
    secret = "ntpm_" + "ab" * 32
    for path in (f"/{secret}", f"{CONFIG}/{secret}", f"{CONFIG}?key={secret}"):
        for method in ("GET", "POST"):
            answer = await api.ask(method, path, key=secret, body=secret.encode(), headers={secret: secret})
            assert secret not in answer.text and secret not in json.dumps(dict(answer.headers))


async def test_a_host_cannot_fill_the_ledger_with_certificates(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth.certificates, "MOST_AN_HOUR", 2)
    host, other = add_host(api, "nlams1-a"), add_host(api, "nlams2-a")
    requests = [request_pem(ec.generate_private_key(ec.SECP256R1())).encode() for _ in range(3)]
    answers = [await api.ask("POST", CERTIFICATE, key=host.key.clear, body=request) for request in requests]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert_words(answers[2], 429)
    assert (await api.ask("POST", CERTIFICATE, key=host.key.clear, body=requests[0])).json() == answers[0].json()
    config = await api.ask("GET", f"{CONFIG}?request_certificate=true", key=host.key.clear)
    assert config.status_code == 200 and "tls" not in config.json()
    assert (await api.ask("POST", CERTIFICATE, key=other.key.clear, body=requests[2])).status_code == 200


async def test_the_hourly_job_ends_registrations_and_forgets_private_keys_and_sessions(api: Api, clock: Clock) -> None:
    host, number = add_host(api, "nlams1-a"), new_id().clear
    url = (await register(api, number)).json()["URL"]
    await api.ask("GET", f"{CONFIG}?request_certificate=true", key=host.key.clear)
    transaction(api.services.engine, lambda c: end_session(c, "x" * 22, clock() + timedelta(hours=12)))
    end_registrations(api.services, clock())
    with reading(api.services.engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(host_certificates)) == 1
        assert has_ended(connection, "x" * 22)
    clock.now += timedelta(hours=24)
    end_registrations(api.services, clock())
    shown = api.services.registrations.show(token_of_url(url), OPERATOR, clock())
    assert shown is not None and shown.status == "cancelled"
    with reading(api.services.engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(host_certificates)) == 0
        assert not has_ended(connection, "x" * 22)

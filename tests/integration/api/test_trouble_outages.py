"""Test every step towards an identity while the database or Vault is away: a clear answer in time, nothing half done,
nothing that stays occupied, and success as soon as the trouble is over."""

import asyncio
import itertools
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.engine import Connection, Engine

from api.published import Published
from auth.api_key_store import add_key
from auth.api_keys import Audience
from auth.ca.vault import VaultAuthority
from runtime import secrets
from runtime.db import connecting
from runtime.db.engine import open_database, reading, transaction
from schema.tables import api_keys, certificates, metadata
from testbed.fixtures.api import ACCESS, CERTIFICATE, CONFIG, REGISTRATION, TOKEN, V4, V6, Api, Clock, add_host
from testbed.fixtures.certificates import request_pem
from testbed.fixtures.pages import Browser, browser
from testbed.fixtures.registering import account, new_id, token_of_url
from testbed.fixtures.vault_pki import TOKEN as VAULT_TOKEN
from testbed.fixtures.vault_pki import FakePki, fake_pki
from testbed.fixtures.whole_api import whole_api
from testbed.tcp_proxy import TcpProxy
from testbed.waiting import wait_until

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PEM = request_pem(ec.generate_private_key(ec.SECP256R1())).encode()
WANTED = f"{CONFIG}?request_certificate=true"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def occupied(engine: Engine) -> int:
    """Return the number of connections that were taken from the pool and not given back."""
    pool: Any = engine.pool
    return int(pool.checkedout())


def dump(engine: Engine) -> list[Any]:
    """Return the ledger, except when a key was last used, which is no part of any step."""
    without = {api_keys.c.last_seen, api_keys.c.modified_on}
    tables = [[c for c in table.c if c not in without] for table in metadata.sorted_tables]
    with reading(engine) as connection:
        return [tuple(row) for columns in tables for row in connection.execute(sa.select(*columns))]


# ---- the database fails at any statement -----------------------------------------------------------------------------


class Failing:
    """Makes the database fail once, at a statement that is counted from now on, or at the commit."""

    def __init__(self, engine: Engine) -> None:
        self._left = -1
        self._commit = ""
        self.failed = False
        sa.event.listen(engine, "before_cursor_execute", self._execute)
        dialect: Any = engine.dialect
        self._do_commit = dialect.do_commit
        dialect.do_commit = self._committing

    def at(self, statement: int = -1, *, commit: str = "") -> None:
        """Fail at this statement, or ``before`` or ``after`` the commit has reached the disk."""
        self._left, self._commit, self.failed = statement, commit, False

    def _fail(self) -> None:
        self.failed = True
        raise sqlite3.OperationalError("disk I/O error")

    def _execute(self, *arguments: Any) -> None:
        self._left -= 1
        if self._left == -1:
            self._fail()

    def _committing(self, connection: Any) -> None:
        when, self._commit = self._commit, ""
        if when == "before":
            self._fail()
        self._do_commit(connection)
        if when == "after":
            self._fail()


@dataclass
class Story:
    """What a host and its owner do, step by step, until the host is registered, and removed again."""

    api: Api
    anna: Browser
    key: str
    account_id: int
    host: str = field(default_factory=lambda: new_id().clear)
    url: str = ""
    api_key: str = ""
    page: Callable[[], httpx.Response] = field(init=False)

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self.anna._runner.run(self.api.ask(method, path, **given))

    def register(self, peer: str = V4) -> httpx.Response:
        headers = {"Registration-ID": self.host, **FORM}
        return self.ask("POST", REGISTRATION, peer=peer, body=b"hostname=h", headers=headers)

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send the form on a page, whose cookies and token this browser has."""
        return self.anna.post(path, {"form_token": self.form_token, **fields})

    form_token: str = ""

    def steps(self) -> Iterator[tuple[Callable[[], httpx.Response], int, Callable[[httpx.Response], object]]]:
        """Yield a request, the status of its success, and what follows from that."""

        def seen(answer: httpx.Response) -> None:
            self.form_token = answer.text.partition('name="form_token" value="')[2].partition('"')[0]
            assert self.form_token

        def registered(answer: httpx.Response) -> None:
            self.url = self.url or token_of_url(answer.json()["URL"])
            assert self.url == token_of_url(answer.json()["URL"]), "one registration"
            found = answer.json().get("APIToken", "")
            assert self.api_key in ("", found), "one key"
            self.api_key = found

        def machine(method: str, path: str, body: bytes | None = None) -> Callable[[], httpx.Response]:
            return lambda: self.ask(method, path, key=self.api_key, body=body)

        def nothing(answer: httpx.Response) -> None: ...

        yield lambda: self.anna.send("GET", "/login"), 200, seen
        yield lambda: self.post("/login", key=self.key, next="/manage"), 303, nothing
        yield self.register, 200, registered
        yield lambda: self.register(V6), 200, registered
        path = f"/manage/monitors/confirm/{self.url}"
        yield lambda: self.anna.send("GET", path), 200, seen
        yield lambda: self.post(path, account=str(self.account_id), location="nlams"), 303, nothing
        yield lambda: self.anna.send("GET", f"{path}/status"), 200, nothing
        yield self.register, 200, registered
        yield lambda: self.register(V6), 200, registered
        assert self.api_key
        yield machine("GET", CONFIG), 200, nothing
        yield machine("POST", TOKEN), 200, nothing
        yield machine("POST", CERTIFICATE, PEM), 200, nothing
        yield machine("GET", WANTED), 200, nothing
        yield machine("POST", ACCESS), 200, nothing
        name = machine("GET", CONFIG)().json()["tls_name"]
        yield lambda: self.anna.send("GET", "/manage"), 200, nothing
        yield lambda: self.anna.send("GET", f"/manage/monitors/{name}"), 200, nothing
        yield lambda: self.post(f"/manage/monitors/{name}/remove", sure="yes"), 303, nothing
        yield lambda: self.anna.send("GET", "/manage"), 200, nothing


@contextmanager
def story(engine: Engine, directory: Path, clock: Clock, **given: Any) -> Iterator[Story]:
    made = whole_api(engine, directory, now=clock, **given)
    owned, peppers = account(engine, "4xhq2c9", monitor_enabled=True), made.services.peppers
    key = transaction(engine, lambda c: add_key(c, peppers, clock(), audience=Audience.ACCOUNT, account_id=owned))[1]
    with browser(made.edge) as anna:  # type: ignore[arg-type]  # the guarded application
        yield Story(made, anna, key.clear, owned)


def assert_unavailable(answer: httpx.Response, engine: Engine) -> None:
    assert answer.status_code == 503, (answer.request.url.path, answer.text)
    page = answer.headers["content-type"].startswith("text/html")
    assert ("database does not answer" if page else "The database is unavailable; try again later.") in answer.text
    assert "disk I/O" not in answer.text and "INSERT" not in answer.text
    assert occupied(engine) == 0, "a connection has leaked"


def test_a_failure_of_any_statement_or_commit_is_a_clear_503_and_changes_nothing(
    sqlite_engine: Engine, tmp_path: Path, clock: Clock
) -> None:
    failing = Failing(sqlite_engine)
    failures = 0
    with story(sqlite_engine, tmp_path, clock) as told:
        for request, status, use in told.steps():
            before = dump(sqlite_engine)
            for number in itertools.count():
                failing.at(number)
                answer = request()
                if not failing.failed:
                    break
                failures += 1
                failing.at(-1)
                assert_unavailable(answer, sqlite_engine)
                assert dump(sqlite_engine) == before, "half a change"
            failing.at(-1)
            assert answer.status_code == status, answer.text
            use(answer)
        assert failures > 60


def test_a_lost_commit_is_repeated_and_changes_nothing_twice(
    sqlite_engine: Engine, tmp_path: Path, clock: Clock
) -> None:
    failing, commits = Failing(sqlite_engine), 0
    with story(sqlite_engine, tmp_path, clock) as told:
        for request, status, use in told.steps():
            for when in ("before", "after"):
                before = dump(sqlite_engine)
                failing.at(commit=when)
                answer = request()
                if not failing.failed:
                    break
                commits += 1
                assert_unavailable(answer, sqlite_engine)
                assert when == "after" or dump(sqlite_engine) == before
            failing.at(-1)
            if answer.status_code == 503:
                answer = request()
            # The host is gone after the first of two removals.
            gone = answer.status_code == 404 and "There is no such monitor" in answer.text
            assert answer.status_code == status or (gone and "remove" in str(answer.request.url)), answer.text
            use(answer)
        assert commits >= 12


def test_refused_connections_are_a_clear_503_and_nobody_is_locked_out_afterwards(
    sqlite_engine: Engine, tmp_path: Path, clock: Clock
) -> None:
    away = [False]

    @sa.event.listens_for(sqlite_engine, "do_connect")
    def connect(*arguments: Any) -> None:
        if away[0]:
            raise sqlite3.OperationalError("disk I/O error")

    with story(sqlite_engine, tmp_path, clock) as told:
        for request, status, use in told.steps():
            sqlite_engine.dispose()
            away[0] = True
            for _ in range(11):  # more logins than may fail
                answer = request()
                if answer.status_code == 200 and answer.request.url.path == "/login":
                    continue  # needs no database
                assert_unavailable(answer, sqlite_engine)
            away[0] = False
            answer = request()
            assert answer.status_code == status, answer.text
            use(answer)


# ---- the database hangs ----------------------------------------------------------------------------------------------


async def register(api: Api, number: str, peer: str = V4) -> httpx.Response:
    return await api.ask("POST", REGISTRATION, peer=peer, headers={"Registration-ID": number})


@pytest.mark.parametrize(
    "statement", ["BEGIN", "INSERT INTO monitor_registrations", "INSERT INTO registration_details"]
)
async def test_a_database_that_hangs_occupies_no_client_and_no_more_threads_than_allowed(
    sqlite_engine: Engine, tmp_path: Path, clock: Clock, statement: str
) -> None:
    go_on, hanging = threading.Event(), threading.Semaphore(0)
    made = whole_api(sqlite_engine, tmp_path, now=clock, within=0.3, at_once=3)

    @sa.event.listens_for(sqlite_engine, "before_cursor_execute")
    def hang(connection: Any, cursor: Any, text: str, *more: Any) -> None:
        if text.startswith(statement) and not go_on.is_set():
            hanging.release()
            assert go_on.wait(60)

    numbers = [new_id().clear for _ in range(9)]
    before = threading.active_count()
    answers = await asyncio.gather(*(register(made, one, f"8.8.{n}.1") for n, one in enumerate(numbers)))
    assert {answer.status_code for answer in answers} == {503}
    assert sum("took too long" in answer.text for answer in answers) == 3
    assert sum("overloaded" in answer.text for answer in answers) == 6, "the queue empties itself"
    assert made.edge.running == 3 and threading.active_count() <= before + 3
    go_on.set()
    await wait_until(lambda: made.edge.running == 0)
    assert occupied(sqlite_engine) == 0
    made = whole_api(sqlite_engine, tmp_path, now=clock)
    late = await asyncio.gather(*(register(made, one, f"8.8.{n}.1") for n, one in enumerate(numbers)))
    assert {answer.status_code for answer in late} == {200}
    with reading(sqlite_engine) as connection:
        table = metadata.tables["monitor_registrations"]
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 9, "one for each host"


async def test_a_server_that_hangs_is_cut_off_or_comes_back_is_used_again(
    mariadb_engine: Engine, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = {"connect_timeout": 0.3, "read_timeout": 0.6, "write_timeout": 0.6}
    monkeypatch.setattr(connecting, "_TIMEOUTS", timeouts)
    port = mariadb_engine.url.port
    assert port is not None
    async with TcpProxy("127.0.0.1", port) as proxy:
        engine = open_database(mariadb_engine.url.set(port=proxy.port))
        try:
            made = await asyncio.to_thread(whole_api, engine, tmp_path, now=clock, within=20.0)
            host = await asyncio.to_thread(add_host, made, "nlams1-a")

            async def statuses() -> set[int]:
                asked = [made.ask("GET", CONFIG, key=host.key.clear), made.ask("POST", TOKEN, key=host.key.clear)]
                asked += [register(made, number, f"9.9.{n}.1") for n, number in enumerate(numbers)]
                asked += [made.ask("POST", CERTIFICATE, key=host.key.clear, body=PEM), made.ask("GET", "/login")]
                return {answer.status_code for answer in await asyncio.gather(*asked)}

            numbers = [new_id().clear for _ in range(4)]
            # On a busy machine, an answer may take longer than these short limits allow.
            await wait_until(lambda: statuses_are(statuses, {200}))
            for trouble in ("hangs", "refuses"):
                if trouble == "hangs":
                    proxy.pause()
                else:
                    proxy.refuse()
                    await proxy.cut()
                numbers = [new_id().clear for _ in range(4)]
                assert await statuses() == {503, 200}, "the page of the login needs no database"
                assert made.edge.running == 0, "a thread waits for the server no longer than its time limit"
                proxy.resume()
                if trouble == "refuses":
                    await proxy.accept()
                await wait_until(lambda: statuses_are(statuses, {200}))
                assert occupied(engine) == 0
        finally:
            engine.dispose()


async def statuses_are(statuses: Callable[[], Any], wanted: set[int]) -> bool:
    return bool(await statuses() == wanted)


# ---- Vault -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakePki]:
    monkeypatch.delenv("VAULT_CACERT", raising=False)
    monkeypatch.setattr(secrets, "_VAULT_TOKEN_FILE", tmp_path / "no token here")
    monkeypatch.setattr(secrets, "_VAULT_TIMEOUT", 0.3)
    with fake_pki("prod") as server:
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", VAULT_TOKEN)
        yield server


@contextmanager
def silent() -> Iterator[str]:
    """Yield the address of a server that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def trouble(kind: str, vault: FakePki, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    paths = ("sign/monitor", "ca_chain", "crl/pem")
    with silent() as address, monkeypatch.context() as patched:
        match kind:
            case "hangs":
                patched.setenv("VAULT_ADDR", address)
            case "refuses":
                with socket.create_server(("127.0.0.1", 0)) as closed:
                    patched.setenv("VAULT_ADDR", f"http://127.0.0.1:{closed.getsockname()[1]}")
            case "token has expired":
                patched.setenv("VAULT_TOKEN", "hvs.expired-token-of-before")
            case "500":
                vault.answers.update(dict.fromkeys(paths, (500, {"errors": [f"sealed, {VAULT_TOKEN}"]})))
            case "garbage":
                vault.answers.update(dict.fromkeys(paths, (200, b"\x00\xffgarbage")))
            case "signs, and the answer is lost":
                sign = vault.sign
                patched.setattr(vault, "sign", lambda body: [sign(body), object()])  # which is no JSON
        yield
    vault.answers.clear()


def issued(connection: Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(certificates)) or 0


@pytest.mark.parametrize(
    "kind", ["refuses", "hangs", "token has expired", "500", "garbage", "signs, and the answer is lost"]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_vault_away_is_a_clear_503_and_one_certificate_is_recorded_when_it_is_back(
    sqlite_engine: Engine,
    tmp_path: Path,
    clock: Clock,
    vault: FakePki,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    vault.handle_error = lambda *_: None  # type: ignore[method-assign]  # a cut answer is meant
    authority = VaultAuthority("prod")
    made = whole_api(sqlite_engine, tmp_path, now=clock, authority=authority)
    host = add_host(made, "nlams1-a")
    key, at = host.key.clear, [0.0]
    published = Published(sqlite_engine, authority, tmp_path / "crl.pem", monotonic=lambda: at[0])
    published.refresh(clock())
    bundle, revocations = published.bundle, published.revocations
    assert bundle and revocations and published.looked
    with trouble(kind, vault, monkeypatch):
        for _ in range(2):
            answer = await made.ask("POST", CERTIFICATE, key=key, body=PEM)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "text/plain; charset=utf-8")
            assert answer.text == "The certificate authority is unavailable; try again later.\n"
        config = await made.ask("GET", WANTED, key=key)
        assert config.status_code == 200 and "tls" not in config.json(), "the rest is there"
        assert (await made.ask("POST", TOKEN, key=key)).status_code == 200
        at[0] += 3601
        await asyncio.to_thread(published.refresh, clock())
        if not kind.startswith("signs"):
            assert (published.bundle, published.revocations) == (bundle, revocations), "what is known stays"
        fresh = Published(sqlite_engine, authority, None)
        await asyncio.to_thread(fresh.refresh, clock())
        assert fresh.looked == (kind.startswith("signs")), "not known, which is not the same as none"
    assert VAULT_TOKEN not in caplog.text and "hvs." not in caplog.text
    with reading(sqlite_engine) as connection:
        assert issued(connection) == 0, "none is recorded that nobody has"
    answers = [await made.ask("POST", CERTIFICATE, key=key, body=PEM) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    with reading(sqlite_engine) as connection:
        assert issued(connection) == 1
    at[0] += 61  # a failure is tried again after a minute
    before = (tmp_path / "crl.pem").stat().st_mtime_ns
    clock.now += timedelta(hours=1)
    published.refresh(clock())
    assert (tmp_path / "crl.pem").stat().st_mtime_ns >= before and published.revocations


async def test_a_vault_that_takes_longer_than_a_request_may_leaves_no_thread_and_one_certificate(
    sqlite_engine: Engine, tmp_path: Path, clock: Clock, vault: FakePki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_VAULT_TIMEOUT", 30)
    made = whole_api(sqlite_engine, tmp_path, now=clock, authority=VaultAuthority("prod"), within=0.3)
    key, go_on, sign = add_host(made, "nlams1-a").key.clear, threading.Event(), vault.sign

    def slowly(body: dict[str, Any]) -> Any:
        assert go_on.wait(60)
        return sign(body)

    monkeypatch.setattr(vault, "sign", slowly)
    answers = await asyncio.gather(*(made.ask("POST", CERTIFICATE, key=key, body=PEM) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {503}
    assert (await made.ask("POST", TOKEN, key=key)).status_code == 200, "other requests are served meanwhile"
    go_on.set()
    await wait_until(lambda: made.edge.running == 0)
    late = await made.ask("POST", CERTIFICATE, key=key, body=PEM)
    assert late.status_code == 200
    with reading(sqlite_engine) as connection:
        assert connection.scalars(sa.select(certificates.c.chain)).all() == [late.json()["certificate"]]

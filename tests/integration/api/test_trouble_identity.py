"""Test trouble on the way to an identity, and in years of having one, with the agent's own code against the whole API.

The promise: the host ends registered exactly once, with one key, or with a sentence that says what to do; and the
agent goes on by itself when the trouble is over. All of it is in this process, by clocks that the test moves.
"""

import asyncio
import itertools
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Engine

import agent.renew
from agent import renewals
from agent.api_client import Answer
from agent.inspection import Inspection
from agent.renew import Renewal
from agent.renewal_file import Outcome, write_outcome
from agent.renewals import Renewals
from agent.setup import Setup, SetupFailed, Wanted
from agent.setup_words import address_line
from agent.state import Api as StoredApi
from agent.state import StateDirectory, StateFile
from agent.wording import status_lines
from auth.api_key_store import authenticate
from auth.registration.model import Confirmed
from auth.registration.model import Outcome as Choice
from runtime.db.engine import open_database, reading, transaction
from runtime.mqtt.token_life import life_of
from schema.names import IpVersion
from schema.tables import api_key_ends, api_keys, certificates, metadata, monitor_registrations, monitors
from testbed.fixtures.api import CERTIFICATE, CONFIG, REGISTRATION, TOKEN, V4, V6, Api, Clock, add_host
from testbed.fixtures.registering import OPERATOR, account, new_id, token_of_url
from testbed.fixtures.whole_api import AT_ONCE, DirectClient, Fate, whole_api
from testbed.random_inputs import examples

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Both:
    """The clock of the API, and that of the host, which may be off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self.off = Clock(), timedelta()
        monkeypatch.setattr(time, "time", lambda: (self.api() + self.off).timestamp())


@dataclass
class Host:
    """An agent's host: its state directory, and its way to the API."""

    directory: StateDirectory
    client: DirectClient
    said: list[str] = field(default_factory=list)

    def set_up(self, hostname: str = "host.example", protocols: Collection[IpVersion] = ("v4", "v6")) -> list[str]:
        """Run ``setup``; return what it says."""
        self.said = []
        wanted = Wanted(hostname, "", tuple(protocols))
        Setup(self.directory, self.client, wanted, self.said.append, AT_ONCE).run()
        return self.said

    def renew(self) -> Outcome:
        """Run the renewal child."""
        return Renewal(self.directory, lambda api: self.client).run()

    @property
    def key(self) -> str:
        stored = self.directory.read_file().api
        return "" if stored is None else stored.key


class World:
    """An API with its ledger, a person who confirms, and hosts."""

    def __init__(self, engine: Engine, base: Path, runner: asyncio.Runner, clock: Clock) -> None:
        self.engine, self.base, self.clock, self.runner = engine, base, clock, runner
        self.api: Api = whole_api(engine, base, now=clock)
        self.account = account(engine, "4xhq2c9", monitor_enabled=True)
        self.confirming = True

    def host(self, name: str = "host", *, addresses: dict[IpVersion, str] | None = None) -> Host:
        directory = StateDirectory(self.base / name, "prod")
        directory.prepare()
        client = DirectClient(self.api, self.runner, self.clock, addresses)
        client.before = self.confirm
        return Host(directory, client)

    def confirm(self) -> None:
        """Confirm what waits, once all addresses that a host has have been seen."""
        these = self.api.services.registrations
        for shown in these.listed(self.clock(), status="pending") if self.confirming else ():
            if shown.ip4 and (shown.ip6 or not self.wants_ipv6):
                full = these.show_by_id(shown.id, OPERATOR, self.clock())
                assert full is not None
                done = these.confirm(
                    shown.verification_token,
                    account_id=self.account,
                    location="nlams",
                    choice=Choice.NEW_KEY if Choice.NEW_KEY in full.choose else None,
                    by=OPERATOR,
                    now=self.clock(),
                )
                assert isinstance(done, Confirmed), done

    wants_ipv6 = True

    def count(self, table: sa.Table) -> int:
        with reading(self.engine) as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)

    def lasting_keys(self) -> int:
        query = sa.select(sa.func.count()).select_from(api_keys.outerjoin(api_key_ends))
        with reading(self.engine) as connection:
            return int(connection.scalar(query.where(api_key_ends.c.ends_on.is_(None))) or 0)

    def is_valid(self, key: str) -> bool:
        return authenticate(self.engine, self.api.services.peppers, key, self.clock()) is not None

    def empty(self) -> None:
        def emptied(connection: sa.Connection) -> None:
            for table in reversed(metadata.sorted_tables):
                if table.name not in ("ledger_origin", "accounts"):
                    connection.execute(table.delete())

        transaction(self.engine, emptied)

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self.runner.run(self.api.ask(method, path, **given))


def careless(engine: Engine) -> None:
    """Do not wait for the disk: no test here is about what a crash of the machine leaves."""
    sa.event.listen(engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(sqlite_engine: Engine, tmp_path: Path, clock: Clock) -> Iterator[World]:
    careless(sqlite_engine)
    with asyncio.Runner() as runner:
        yield World(sqlite_engine, tmp_path, runner, clock)


# ---- forged, replayed, expired and foreign registrations -------------------------------------------------------------


def assert_nothing_happened(world: World) -> None:
    for table in (monitor_registrations, monitors, api_keys, certificates):
        assert world.count(table) == 0, table.name


HOSTILE: list[tuple[str, dict[str, str], bytes, int]] = [
    ("GET", {}, b"", 405),
    ("PUT", FORM, b"hostname=h", 405),
    ("DELETE", {}, b"", 405),
    ("HEAD", {}, b"", 405),
    ("POST", {"Registration-ID": ""}, b"", 400),
    ("POST", {"Registration-ID": "01ARZ3NDEKTSV4RRFFQ69G5FA"}, b"", 400),
    ("POST", {"Registration-ID": "01ARZ3NDEKTSV4RRFFQ69G5FAVX"}, b"", 400),
    ("POST", {"Registration-ID": "81ARZ3NDEKTSV4RRFFQ69G5FAV"}, b"", 400),
    ("POST", {"Registration-ID": "01ARZ3NDEKTSV4RRFFQ69G5FAI"}, b"", 400),
    ("POST", {"Registration-ID": "' OR 1=1 --"}, b"", 400),
    ("POST", {"Content-Type": "application/json"}, b'{"hostname": "h"}', 415),
    ("POST", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
    ("POST", {}, b"hostname=h", 415),
    ("POST", FORM, b"hostname=" + "ü".encode(), 400),
    ("POST", FORM, b"hostname=%ff%fe", 400),
    ("POST", FORM, b"hostname=a%0d%0aX: y", 400),
    ("POST", FORM, b"hostname=" + b"a" * 254, 400),
    ("POST", FORM, b"hostname=../../etc/passwd", 400),
    ("POST", FORM, b"&".join(b"f%d=" % n for n in range(30)), 400),
    ("POST", FORM, b"a=" + b"z" * 60_000, 403),
    ("POST", FORM, b"x" * 1_000_000, 413),
    ("POST", {**FORM, "Content-Encoding": "gzip"}, b"\x1f\x8b\x08", 400),
]


def test_forged_registrations_are_refused_in_words_and_store_nothing(world: World) -> None:
    for method, headers, body, status in HOSTILE:
        sent = {"Registration-ID": new_id().clear, **headers}
        answer = world.ask(method, REGISTRATION, headers=sent, body=body)
        assert answer.status_code == status, (method, headers, body[:40], answer.text)
        assert answer.headers["content-type"].startswith("text/plain"), "agents print it"
        assert ("Traceback" not in answer.text and body[:9].decode("latin-1") not in answer.text[9:]) or not body
    assert_nothing_happened(world)


def test_nothing_that_a_body_or_header_says_is_taken_for_the_address(world: World) -> None:
    lies = {"X-Forwarded-For": "9.9.9.9", "X-Real-IP": "9.9.9.9", "Forwarded": "for=9.9.9.9", **FORM}
    number = new_id().clear
    answer = world.ask(
        "POST", REGISTRATION, peer=V4, body=b"hostname=h&ip=9.9.9.9&ip4=9.9.9.9&ip6=2620:fe::fe&status=accepted",
        headers={"Registration-ID": number, **lies},
    )  # fmt: skip
    shown = world.api.services.registrations.show(token_of_url(answer.json()["URL"]), OPERATOR, world.clock())
    assert shown is not None and (shown.ip4, shown.ip6, shown.status) == (V4, "", "pending")
    # Another host, even one that knows the id, gets neither the page nor the key; nor does it stop the first one.
    assert world.ask("POST", REGISTRATION, peer="9.9.9.9", headers={"Registration-ID": number}).status_code == 409
    foreign = {"Registration-ID": number, "X-Forwarded-For": V4}
    assert world.ask("POST", REGISTRATION, peer="9.9.9.9", headers=foreign).status_code == 409
    assert world.ask("POST", REGISTRATION, peer=V4, headers={"Registration-ID": number}).json() == answer.json()


def test_keys_of_another_environment_or_api_are_worth_nothing_and_renew_nothing(world: World, tmp_path: Path) -> None:
    other = whole_api(world.engine, tmp_path / "test", now=world.clock, env="test", jwt_key="f" * 64)
    stranger = add_host(other, "nlams1-x", ips={"v4": V4})
    for method, path in (("GET", CONFIG), ("POST", TOKEN), ("POST", CERTIFICATE)):
        assert world.ask(method, path, key=stranger.key.clear).status_code == 401
    headers = {"Registration-ID": new_id().clear, "Authorization": f"Bearer {stranger.key.clear}"}
    url = world.ask("POST", REGISTRATION, peer="9.9.9.9", headers=headers).json()["URL"]
    shown = world.api.services.registrations.show(token_of_url(url), OPERATOR, world.clock())
    assert shown is not None and not shown.renews and shown.account_id is None
    # A key that the ledger knows, but of a monitor that is named for another environment.
    host = add_host(world.api, "nlams2-x")
    renamed = sa.update(monitors).where(monitors.c.tls_name == host.name).values(tls_name="nlams2-x.test.mon.example")
    transaction(world.engine, lambda c: c.execute(renamed))
    for method, path in (("POST", TOKEN), ("POST", CERTIFICATE)):
        assert world.ask(method, path, key=host.key.clear, body=b"").status_code in (400, 403)


# ---- lost requests and answers, in every order -----------------------------------------------------------------------


def test_whatever_is_lost_of_a_setup_leaves_one_registration_and_one_key(world: World) -> None:
    """All sets of the first five requests, of which an undisturbed run has four."""
    undisturbed = world.host("undisturbed")
    undisturbed.set_up()
    assert [path for _, path, _ in undisturbed.client.asked] == [REGISTRATION] * 3 + [CONFIG]
    for number, lost in enumerate(itertools.product((False, True), repeat=5)):
        world.empty()
        host = world.host(f"host{number}")
        fate: Fate = "request lost" if number % 3 == 1 else "answer lost"
        host.client.fate = lambda at, lost=lost, fate=fate: fate if at < 5 and lost[at] else "arrives"  # type: ignore[misc]
        host.set_up()
        assert (world.count(monitor_registrations), world.count(api_keys), world.count(monitors)) == (1, 1, 2), lost
        assert world.is_valid(host.key) and not host.directory.registration_file.exists()


FATES: list[Fate] = ["arrives", "arrives", "request lost", "answer lost"]


@given(st.lists(st.sampled_from(FATES), max_size=24))
@examples(12, thorough=300)
def test_whatever_is_lost_in_setup_renewal_and_setup_again_leaves_one_identity(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path, fates: list[Fate]
) -> None:
    base = tmp_path_factory.mktemp("lost")
    with asyncio.Runner() as runner, opened(_sqlite_template, base) as engine:
        world = World(engine, base, runner, Clock())
        host = world.host()
        host.client.fate = lambda at: fates[at] if at < len(fates) else "arrives"
        for run in range(2):
            host.set_up()
            outcomes = until_ok(host)
            assert outcomes[-1] == "ok" and set(outcomes[:-1]) <= {"unreachable"}
            assert (world.count(monitor_registrations), world.count(monitors)) == (run + 1, 2)
            assert world.lasting_keys() == 1 and world.is_valid(host.key)
            held = life_of(host.directory.read_token())
            assert held is not None and held.subject == host.directory.read_state().name
            with reading(engine) as connection:
                issued = connection.execute(sa.select(certificates.c.request_hash, certificates.c.chain)).all()
            assert len({row.request_hash for row in issued}) == len(issued) == run + 1, "one for each request"
            assert issued[-1].chain in host.directory.certificate_file.read_text() or run == 0


def until_ok(host: Host) -> list[str]:
    """Renew until that succeeds; return the outcomes."""
    outcomes = [host.renew().kind]
    while outcomes[-1] != "ok" and len(outcomes) < 30:
        outcomes.append(host.renew().kind)
    return outcomes


@contextmanager
def opened(template: Path, base: Path) -> Iterator[Engine]:
    """Yield an empty ledger."""
    shutil.copy(template, base / "ledger.db")
    engine = open_database(URL.create("sqlite", database=str(base / "ledger.db")))
    careless(engine)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.mark.parametrize("status", [404, 405, 408, 413, 429, 500, 502])
def test_an_answer_that_says_nothing_about_the_registration_does_not_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """As of a proxy that is being set up: the person may have confirmed it already."""
    host, world.confirming = world.host(), False
    ask, answers = host.client.request, iter([status])

    def request(*arguments: Any, **named: Any) -> Answer:
        if len(host.client.asked) == 2 and (broken := next(answers, None)) is not None:
            world.confirming = True
            return Answer(broken, "text/plain", b"not now")
        return ask(*arguments, **named)

    monkeypatch.setattr(host.client, "request", request)
    try:
        host.set_up()
    except SetupFailed as failed:
        assert "not now" in str(failed) and host.directory.registration_file.exists()
        host.set_up()
        assert "going on with the registration" in host.said[0]
    assert (world.count(monitor_registrations), world.count(api_keys)) == (1, 1)
    assert world.is_valid(host.key)


# ---- two hosts with one identity -------------------------------------------------------------------------------------


def copied(world: World, host: Host, name: str, addresses: dict[IpVersion, str]) -> Host:
    """Copy the state directory to another host, as an image of a virtual machine does."""
    other = world.host(name, addresses=addresses)
    for path in host.directory.path.iterdir():
        if path.is_file():
            other.directory.path.joinpath(path.name).write_bytes(path.read_bytes())
            other.directory.path.joinpath(path.name).chmod(0o600)
    return other


def test_a_copy_works_until_one_of_both_sets_up_again_and_the_other_is_told_what_to_do(world: World) -> None:
    first = world.host()
    first.set_up()
    copy = copied(world, first, "copy", {"v4": "9.9.9.9", "v6": "2620:fe::fe"})
    for host in (first, copy, first):
        assert host.renew().kind == "ok", "the broker tells two of one name apart, and lets in one at a time"
    assert world.count(certificates) == 2 and world.count(monitors) == 2
    name = first.directory.read_state().name
    said = copy.set_up()
    assert f"monitor {name}" in said and "IPv4 9.9.9.9: testing, formerly 8.8.4.4" in said
    assert copy.renew().kind == "ok" and world.lasting_keys() == 1 and world.count(monitors) == 2
    assert first.renew().kind == "ok", "for ten minutes, as after any renewal of a key"
    world.clock.now += 10 * MINUTE
    refused = first.renew()
    assert refused.kind == "refused" and "setup' for a new one" in refused.text
    assert copy.renew().kind == "ok"
    # It becomes a monitor of its own, since its addresses belong to nobody now.
    said = first.set_up()
    assert "the former API key is not valid any more; registering anew" in said
    assert first.renew().kind == "ok" and first.directory.read_state().name != name
    assert world.lasting_keys() == 2 and world.count(monitors) == 4
    assert [host.renew().kind for host in (first, copy)] == ["ok", "ok"]


def test_a_registration_copied_while_it_waits_is_finished_by_its_own_host_only(world: World) -> None:
    first, world.confirming = world.host(), False

    class Stopped(BaseException):
        pass

    def stop() -> None:
        if len(first.client.asked) == 3:
            raise Stopped

    first.client.before = stop
    with pytest.raises(Stopped):
        first.set_up()
    copy = copied(world, first, "copy", {"v4": "9.9.9.9", "v6": "2620:fe::fe"})
    with pytest.raises(SetupFailed, match=r"from another address than 9\.9\.9\.9.*a copy of it, run .*setup' again"):
        copy.set_up()
    world.confirming = True
    first.client.before = world.confirm
    assert "going on with the registration" in first.set_up()[0]
    assert world.is_valid(first.key) and not copy.key
    copy.client.before = world.confirm
    copy.set_up()
    assert copy.key != first.key and world.is_valid(copy.key) and world.lasting_keys() == 2


# ---- addresses that move, come and go --------------------------------------------------------------------------------


def test_a_host_moves_loses_ipv6_and_gets_it_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.host()
    host.set_up()
    assert host.renew().kind == "ok"
    name, client = host.directory.read_state().name, host.client
    # Token and certificate do not depend on an address: it goes on, by whatever protocol it has, and says so.
    monkeypatch.setattr(agent.renew, "_is_due", lambda *times: True)
    for addresses, seen in (
        ({"v4": "9.9.9.9", "v6": V6}, "9.9.9.9"),
        ({"v4": "9.9.9.9"}, "9.9.9.9"),
        ({"v6": "2001:4860:4860::1"}, ""),  # the same network
        ({"v6": "2620:fe::fe"}, "2620:fe::fe"),
        ({"v4": V4}, ""),
        ({"v4": "9.9.9.9"}, "9.9.9.9"),
    ):
        client.addresses = dict(addresses)  # type: ignore[arg-type]
        renewed = host.renew()
        assert renewed.kind == "ok" and bool(renewed.address) == bool(seen) and seen in renewed.address
    assert f"{V4} is registered: if the host has moved, run 'ntppool-agent setup'" in renewed.address
    monkeypatch.undo()
    line = f"address      {renewed.address}"
    assert line in status_lines(Inspection(path="", env="prod", set_up=True, api="x", renewal=renewed), world.clock())
    # Setup says what becomes of each protocol. One that cannot be seen keeps what is registered.
    client.addresses, world.wants_ipv6 = {"v4": "9.9.9.9"}, False
    said = host.set_up()
    assert any(line.startswith("IPv6 is left out: ") and "run setup again to add it" in line for line in said)
    assert "IPv4 9.9.9.9: testing, formerly 8.8.4.4" in said and f"IPv6 {V6}: testing" in said
    client.addresses, world.wants_ipv6 = {"v4": "9.9.9.9", "v6": "2620:fe::fe"}, True
    assert f"IPv6 2620:fe::fe: testing, formerly {V6}" in host.set_up()
    assert (host.renew().kind, host.renew().address) == ("ok", "") and host.directory.read_state().name == name
    assert (world.count(monitors), world.lasting_keys()) == (2, 1)


@pytest.mark.parametrize(
    "seen_as",
    ["", "x", "9.9.9.9\x1b[2J", "2620:fe::fe", "2620:fe::fe%\x1b[2J", "8.8.4.4", "999.1.1.1", "::ffff:8.8.4.4"],
)
def test_an_api_that_tells_nothing_usable_about_our_address_is_no_reason_to_warn(seen_as: str) -> None:
    assert address_line(seen_as, {"v4": V4}) == "" == address_line(seen_as, {"v4": "", "v6": "x"})
    assert "\x1b" not in address_line(seen_as, {"v4": "9.9.9.9", "v6": V6})


def test_a_host_that_has_moved_is_told_once_in_the_journal_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Renewals(StateDirectory(tmp_path, "devel"))
    for kind, address in (("ok", "moved"), ("unreachable", ""), ("ok", "moved"), ("ok", ""), ("ok", "moved")):
        made._use(Outcome(at=datetime.now(UTC), kind=kind, address=address))  # type: ignore[arg-type]
    assert [record.message for record in caplog.records if record.message].count("moved") == 2
    assert made.trouble is None and made.refusal is None


def test_an_address_that_changes_while_the_registration_waits_is_said_and_the_next_run_registers(world: World) -> None:
    host, world.confirming = world.host(), False

    def move() -> None:
        if len(host.client.asked) == 3:
            host.client.addresses = {"v4": "9.9.9.9", "v6": "2620:fe::fe"}

    host.client.before = move
    with pytest.raises(SetupFailed, match=r"another address than 9\.9\.9\.9.*run 'ntppool-agent setup' again here"):
        host.set_up()
    world.confirming = True
    host.client.before = world.confirm
    host.set_up()
    config = world.ask("GET", CONFIG, key=host.key).json()
    assert (config["ipv4"]["ip"], config["ipv6"]["ip"]) == ("9.9.9.9", "2620:fe::fe")


# ---- the clock of the host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [DAY, -DAY, 400 * DAY], ids=str)
def test_a_clock_that_is_off_is_said_and_bricks_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    both = Both(monkeypatch)
    both.api = world.clock
    host = world.host()
    both.off = off
    said = host.set_up()
    word = "ahead of" if off > timedelta() else "behind"
    assert any("this host's clock is" in line and f"{word} the API's" in line and "set it" in line for line in said)
    for _ in range(3):
        renewed = host.renew()
        assert renewed.kind == "ok" and word in renewed.clock
    assert [path for _, path, _ in host.client.asked].count(TOKEN) == 1, "what is due, the API's clock decides"
    assert world.count(certificates) == 1
    # It is renewed on time, by the API's clock; and after the clock was set, nothing is renewed for that.
    world.clock.now += 5 * HOUR
    assert host.renew().kind == "ok" and [path for _, path, _ in host.client.asked].count(TOKEN) == 2
    both.off = timedelta()
    mended = host.renew()
    assert (mended.kind, mended.clock) == ("ok", "")
    assert [path for _, path, _ in host.client.asked].count(TOKEN) == 2 and world.count(certificates) == 1


@pytest.mark.parametrize("off", [DAY - MINUTE, MINUTE - DAY, 3 * DAY], ids=str)
def test_a_registration_begun_by_a_wrong_clock_is_finished_by_the_right_one(
    world: World, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    both = Both(monkeypatch)
    both.api, both.off = world.clock, off
    host = world.host()
    host.client.fate = lambda at: "arrives"

    class Stopped(BaseException):
        pass

    def stop() -> None:
        world.confirm()
        if len(host.client.asked) == 2:
            host.client.before = world.confirm
            raise Stopped

    host.client.before = stop
    with pytest.raises(Stopped):
        host.set_up()
    both.off = timedelta()
    host.set_up()
    assert world.lasting_keys() == 1 and world.count(monitors) == 2 and world.is_valid(host.key)


# ---- the API is away for a day ---------------------------------------------------------------------------------------


def test_after_a_day_without_the_api_one_renewal_brings_everything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Both(monkeypatch)
    both.api = world.clock
    host = world.host()
    host.set_up()
    assert host.renew().kind == "ok"
    files = [host.directory.state_file, host.directory.token_file, host.directory.certificate_file]
    before, certificate = [path.read_bytes() for path in files], host.directory.certificate_file.read_bytes()
    host.client.addresses = {}
    for _ in range(6):
        world.clock.now += 4 * HOUR
        away = host.renew()
        assert away.kind == "unreachable" and "Network is unreachable" in away.text
        assert [path.read_bytes() for path in files] == before, "it works with what it has"
    host.client.addresses = {"v4": V4, "v6": V6}
    assert host.renew().kind == "ok"
    held = life_of(host.directory.read_token())
    assert held is not None and held.expires > world.clock().timestamp()
    assert host.directory.certificate_file.read_bytes() == certificate, "which is valid for long"
    # A third of a year later, the certificate has ended, too.
    world.clock.now += 120 * DAY
    assert host.renew().kind == "ok" and host.directory.certificate_file.read_bytes() != certificate
    assert world.count(certificates) == 2


class QuickLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes as soon as it has nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def pass_time(timeout: float | None = None) -> Any:
            events = select(0)
            if not events and timeout:
                self._passed += timeout
            return events

        selector.select = pass_time

    def time(self) -> float:
        return self._passed


@pytest.mark.parametrize("away_for", [100 * MINUTE, 5 * HOUR, 25 * HOUR], ids=str)
@pytest.mark.parametrize("from_hour", [1.0, 3.99, 5.5])
def test_a_daemon_without_the_api_asks_rarely_and_has_a_token_15_minutes_after_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away_for: timedelta, from_hour: float
) -> None:
    """Tokens last six hours. The broker refuses an ended one every ten seconds, which makes the agent ask."""
    directory = StateDirectory(tmp_path, "devel")
    directory.prepare()
    directory.write_file(StateFile(api=StoredApi(url="https://api.example", key="ntpm_a_key_for_tests")))
    begins, ends = 3600 * from_hour, 3600 * from_hour + away_for.total_seconds()
    token_ends, asked, had_none = 0.0, [], [0.0]
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        loop = runner.get_loop()
        monkeypatch.setattr(renewals, "time", SimpleNamespace(monotonic=loop.time))
        monkeypatch.setattr(renewals, "LOOK_EVERY", 5.0)
        made = Renewals(directory)

        async def child(*, again: bool) -> str:
            nonlocal token_ends
            now = loop.time()
            asked.append(now)
            if begins <= now < ends:
                write_outcome(directory, Outcome(at=datetime.now(UTC), kind="unreachable", text=f"away {now}"))
                return ""
            if again or token_ends - now < 2 * 3600:
                token_ends = now + 6 * 3600
            write_outcome(directory, Outcome(at=datetime.now(UTC), kind="ok"))
            return ""

        async def broker() -> None:
            while loop.time() < ends + 7200:
                await asyncio.sleep(10)
                if token_ends <= loop.time():
                    had_none.append(loop.time())
                    made.broker_refuses()

        async def run() -> None:
            renewing = asyncio.create_task(made.run())
            await broker()
            renewing.cancel()

        monkeypatch.setattr(made, "_run_child", child)
        runner.run(run())
    if away_for <= 100 * MINUTE:
        assert had_none == [0.0], "nobody has noticed"
    elif away_for > 6 * HOUR:
        assert len(had_none) > 1
    assert had_none[-1] <= ends + 900 + 15, "15 minutes, and the next look of the broker's session"
    assert min(at for at in asked if at >= ends) <= ends + 900 + 5
    tries = sum(begins <= at < ends for at in asked)
    assert tries <= 20 + away_for.total_seconds() / 450, "an API that comes back is not overrun"
    assert made.refusal is None and made.trouble is None

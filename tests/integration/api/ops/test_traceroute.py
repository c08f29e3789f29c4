"""Test tracing routes for operators, with a real broker and agents there: good, unable, hostile, and a real one."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from api.ops.check import Finding, Plan, Wanted
from api.ops.kept_routes import MOST_PER_DAY, keep_route, read_routes
from api.ops.limits import CHECKS_PER_MINUTE
from api.ops.replies import route_of
from api.ops.target import parse_target
from ingest.retention import Retention, expiring
from runtime.db.engine import reading, transaction, utc_now
from runtime.mqtt.session import BrokerSession
from schema.messages import AdHocAnswer, AdHocRequest, encode
from schema.tables import server_traceroutes
from testbed.fixtures.agent import AgentProcess, pool_of
from testbed.fixtures.broker import Broker
from testbed.fixtures.ops import IP, Ops, Said, add_agent, api_session, good, make_ops, scripted, silent, traced
from testbed.fixtures.world import add_server
from testbed.ntp.server import Fleet
from testbed.ntp.spec import ServerSpec
from testbed.waiting import PATIENCE, wait_until

NUMBERS = itertools.count(1)
TRACEROUTE = "/ops/check/traceroute/"
PROGRAM = """#!/bin/sh
if [ "$1" = --version ]; then echo "Modern traceroute for Linux, version 2.1.2"; exit; fi
for ip; do :; done
printf ' 1  192.0.2.254  1.250 ms *\\n 2  %s  2.500 ms  2.250 ms\\n' "$ip"
"""

HANGING = """#!/bin/sh
if [ "$1" = --version ]; then echo "Modern traceroute for Linux, version 2.1.2"; exit; fi
echo $$ >{}
exec sleep 1000
"""
SERVER = "127.78.2.1"


@pytest.fixture
async def session(broker: Broker) -> AsyncIterator[BrokerSession]:
    async with api_session(broker) as connected:
        yield connected


@pytest.fixture
def ops(sqlite_engine: Engine, tmp_path: Path, session: BrokerSession) -> Ops:
    return make_ops(sqlite_engine, tmp_path, session, traceroute_within=10 * PATIENCE)


def add_able(ops: Ops, **said: Any) -> str:
    """Add an agent that can trace routes, with a name that no other test has used at the broker."""
    return add_agent(ops.api.services.engine, f"nlams{next(NUMBERS)}-route", **{"traceroute": True, **said})


async def routed(request: AdHocRequest) -> list[Said]:
    return [traced(request)]


@asynccontextmanager
async def probing(ops: Ops, broker: Broker, directory: Path, script: str) -> AsyncIterator[tuple[AgentProcess, int]]:
    """Yield a real agent whose host has this program, and the id of the server at :data:`SERVER`."""
    name = add_able(ops)
    program = directory / "traceroute"
    program.write_text(script)
    program.chmod(0o755)
    specs = [ServerSpec(address="127.78.1.1", port=0), ServerSpec(address=SERVER, port=0)]
    async with Fleet(specs) as fleet, pool_of(broker, name) as pool:
        right, server = fleet.specs
        flags = {"port": server.port}
        server_id = transaction(ops.api.services.engine, lambda c: add_server(c, server.address, flags=flags))
        with AgentProcess(directory, broker, name) as agent:
            agent.start()
            await pool.configure(base_checks=[f"{right.address}:{right.port}"])
            await wait_until(lambda: pool.probing() and pool.status.traceroute)
            yield agent, server_id
        await pool.forget()


async def test_a_real_agent_runs_its_hosts_program(
    ops: Ops, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with probing(ops, broker, tmp_path, PROGRAM) as (agent, server_id):
        name = agent.name
        [plan, found, end] = await ops.check(ip=SERVER, kind="traceroute")
        [again] = (await ops.check(ip=SERVER, kind="traceroute"))[1:-1]
    about = {"check": "traceroute", "ip": SERVER, "port": plan["port"], "server_id": server_id}
    assert plan == {**about, "asked": [{"monitor": name, "usual_rtt": None}]}
    assert found["result"]["stratum"] == 2 and end == {"asked": 1, "traced": 1, "kept": 1}
    assert found["traces"] == [
        {
            "method": "udp",
            "hops": [
                {"ttl": 1, "answers": [{"ip": "192.0.2.254", "rtt": 0.00125, "note": None}, None]},
                {
                    "ttl": 2,
                    "answers": [
                        {"ip": SERVER, "rtt": 0.0025, "note": None},
                        {"ip": SERVER, "rtt": 0.00225, "note": None},
                    ],
                },
            ],
            "tried": 2,
            "reached": True,
            "error": None,
        }
    ]
    assert again["said"] == f"{name} did not trace the route: busy: a traceroute began less than 10 seconds ago"
    [kept] = (await ops.ask("GET", TRACEROUTE + SERVER)).json()
    assert kept["traced_on"].endswith("Z") and kept | {"traced_on": ""} == {
        "monitor": name,
        "ip": SERVER,
        "traced_on": "",
        "answered": True,
        "traces": found["traces"],
    }


async def test_an_agent_that_is_stopped_ends_its_traceroute(
    ops: Ops, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = tmp_path / "pid"
    async with probing(ops, broker, tmp_path, HANGING.format(told)) as (agent, _):
        asked = asyncio.create_task(ops.check(ip=SERVER, kind="traceroute"))
        await wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "its start")
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
        asked.cancel()
        await asyncio.wait({asked})
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


async def test_only_those_that_can_are_asked(ops: Ops, broker: Broker) -> None:
    able, unable = add_able(ops), add_able(ops, traceroute=False)
    near = add_able(ops)
    online = {one["name"]: one for one in (await ops.ask("GET", "/ops/monitors/online")).json()}
    assert [online[name]["traceroute"] for name in (able, unable)] == [True, False]
    address = online[near]["protocols"]["v4"]["address"]
    assert address is not None
    target = address.rpartition(".")[0] + ".254"
    async with scripted(broker, {able: routed, near: routed}):
        [plan, _, _, end] = await ops.check(f"?from={able}&from={unable}", kind="traceroute")
        assert [one["monitor"] for one in plan["asked"]] == [able] and end["traced"] == 1
        [_, *found, _] = await ops.check(f"?from={unable}&from={near}", ip=target, kind="traceroute")
    assert {one["monitor"]: one["said"] for one in found} == {
        unable: f"{unable} has no traceroute program",
        near: f"{near} is in the network of this address",
    }


async def test_whatever_an_agent_sends_the_others_are_heard(ops: Ops, broker: Broker) -> None:
    names = [add_able(ops) for _ in range(3)]
    server_id = transaction(ops.api.services.engine, lambda c: add_server(c, IP))

    async def rude(request: AdHocRequest) -> list[Said]:
        return [encode(AdHocAnswer(id=request.id, error="\x1b[2J"))]

    async with scripted(broker, dict(zip(names, (routed, rude, good), strict=True))):
        [plan, *found, end] = await ops.check(kind="traceroute")
    assert plan["server_id"] == server_id and end == {"asked": 3, "traced": 1, "kept": 1}
    assert {one["monitor"]: one.get("said") for one in found} == {
        names[0]: None,
        names[1]: f"{names[1]} did not trace the route: \x1b[2J",
        names[2]: f"{names[2]} answered without a route",
    }


async def test_a_route_is_kept_although_the_client_leaves(ops: Ops, broker: Broker) -> None:
    answering, mute = add_able(ops), add_able(ops)
    transaction(ops.api.services.engine, lambda c: add_server(c, IP))
    gone = asyncio.Event()

    async def on_line(line: Any) -> None:
        if "traces" in line:
            gone.set()

    async with scripted(broker, {answering: routed, mute: silent}), asyncio.timeout(PATIENCE):
        await ops.stream(TRACEROUTE + IP, on_line, gone=gone)
    assert [one["monitor"] for one in (await ops.ask("GET", TRACEROUTE + IP)).json()] == [answering]
    assert ops.desk.waiting.taken == ops.desk.traceroutes.taken == 0


async def test_a_ledger_that_stores_nothing_stops_no_route(
    ops: Ops, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    name = add_able(ops)
    transaction(ops.api.services.engine, lambda c: add_server(c, IP))
    with ops.api.services.engine.begin() as connection:
        server_traceroutes.drop(connection)
    async with scripted(broker, {name: routed}):
        [_, found, end] = await ops.check(kind="traceroute")
    assert found["traces"] and end == {"asked": 1, "traced": 1, "kept": 0}
    assert f"the route from {name} to {IP} could not be stored" in caplog.text


async def test_routes_have_places_of_their_own_and_count_as_checks(ops: Ops, broker: Broker) -> None:
    name = add_able(ops)
    places = [ops.desk.traceroutes.one() for _ in range(2)]
    for place in places:
        place.__enter__()
    async with scripted(broker, {name: good}):
        answer = await ops.ask("POST", TRACEROUTE + IP)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        for _ in range(CHECKS_PER_MINUTE - 1):
            assert (await ops.check())[-1]["measured"] == 1, "other checks are not delayed"
        assert (await ops.ask("POST", TRACEROUTE + IP)).status_code == 429
    for place in places:
        place.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "10.0.0.1", 400, "10.0.0.1 is a private address; only public addresses are measured."),
        ("POST", "127.0.0.1", 400, "127.0.0.1 is a loopback address; only public addresses are measured."),
        ("POST", "224.0.1.1", 400, "224.0.1.1 is not the address of one host."),
        ("POST", "8.8.4.4?samples=1", 400, "parameter 'samples': must be one of from, monitors."),
        ("POST", "8.8.4.4?from=nobody", 404, "There is no monitor called 'nobody'."),
        (
            "POST",
            "8.8.4.4",
            409,
            "No monitor can trace the route to 8.8.4.4 now: none that is connected probes by IPv4 and has a traceroute "
            "program.",
        ),
        ("GET", "8.8.4.4", 404, "There is no server at 8.8.4.4."),
        ("GET", "x", 400, "'x' is not an IP address."),
        ("GET", "8.8.4.4?limit=101", 400, "limit: must be 1 to 100."),
    ],
)
async def test_what_cannot_be_traced_is_refused_in_words(
    sqlite_engine: Engine, tmp_path: Path, session: BrokerSession, method: str, path: str, status: int, words: str
) -> None:
    ops = make_ops(sqlite_engine, tmp_path, session, env="prod")
    add_agent(sqlite_engine, "nlams1-none", env="prod")
    answer = await ops.ask(method, TRACEROUTE + path)
    assert (answer.status_code, answer.text) == (status, f"{words}\n")


async def test_strangers_are_told_nothing(ops: Ops) -> None:
    for method in ("GET", "POST"):
        assert (await ops.ask(method, TRACEROUTE + IP, key=None)).status_code == 401


# ---- the ledger ------------------------------------------------------------------------------------------------------


def test_every_database_keeps_the_latest_routes_of_a_day(engine: Engine) -> None:
    name, now = add_agent(engine, "nlams1-kept"), utc_now()
    request = AdHocRequest(id="a", ip=IP)
    finding = Finding(name, None, *route_of(traced(request), "a", IP))

    def fill(connection: Connection) -> int:
        server_id, other = add_server(connection, IP), add_server(connection)
        plan = Plan(Wanted(parse_target("devel", IP), kind="traceroute"), 123, server_id, [], [])
        nobodys = Finding("nobody.devel.mon.example", None, finding.result, finding.traces)
        assert not keep_route(connection, Plan(plan.wanted, 123, None, [], []), finding, now)
        assert not keep_route(connection, plan, nobodys, now)
        assert keep_route(connection, Plan(plan.wanted, 123, other, [], []), finding, now)
        for minutes in range(MOST_PER_DAY + 5):
            at = now - timedelta(days=16) if minutes < 2 else now + timedelta(seconds=minutes)
            assert keep_route(connection, plan, finding, at)
        return server_id

    server_id = transaction(engine, fill)
    with reading(engine) as connection:
        kept = read_routes(connection, server_id, 1000)
        assert len(kept) == MOST_PER_DAY + 2, "those of another day have places of their own"
        assert kept[0].traced_on - now == timedelta(seconds=MOST_PER_DAY + 4)
        assert kept[MOST_PER_DAY - 1].traced_on - now == timedelta(seconds=5)
        assert (kept[0].monitor, kept[0].ip, kept[0].answered, kept[0].traces) == (name, IP, False, finding.traces)
        assert len(read_routes(connection, server_id, 7)) == 7
        assert len(read_routes(connection, server_id, 1000, now)) == MOST_PER_DAY
    _remove_expired(engine)
    with reading(engine) as connection:
        assert len(read_routes(connection, server_id, 1000)) == MOST_PER_DAY
        assert connection.scalar(sa.select(sa.func.count()).select_from(server_traceroutes)) == MOST_PER_DAY + 1
    transaction(engine, lambda c: c.execute(sa.update(server_traceroutes).values(traces='[{"method": "?"}]')))
    with reading(engine) as connection:
        assert read_routes(connection, server_id, 5) == [], "rows that cannot be read are left out"


def _remove_expired(engine: Engine) -> None:
    [what] = [one for one in expiring(None) if one.table is server_traceroutes]
    assert what.kept == timedelta(days=15)
    retention = Retention(engine, what)
    found = retention.round(utc_now())
    assert found is not None and retention.step(found).removed == 2

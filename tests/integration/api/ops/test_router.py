"""Test operators' routes with a real broker, and with agents there: good, silent, hostile, and a real one."""

import asyncio
import itertools
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from api.ops.check import Plan, Wanted, plan_check
from api.ops.limits import CHECKS_PER_MINUTE
from api.ops.replies import MAX_ANSWER
from api.ops.target import parse_target
from api.pages.login_limit import MOST
from auth.api_key_store import revoke_key
from auth.tokens import Role
from runtime.db.engine import reading, transaction, utc_now
from runtime.mqtt.session import BrokerSession, Identity
from runtime.mqtt.types import BrokerAddress
from schema.limits import MONITOR_GONE
from schema.messages import AdHocAnswer, AdHocRequest, encode
from schema.tables import api_keys, monitors
from testbed.fixtures.agent import AgentProcess, pool_of
from testbed.fixtures.api import add_host
from testbed.fixtures.broker import Broker
from testbed.fixtures.ops import (
    IP,
    TOPICS,
    Ops,
    Said,
    add_agent,
    api_session,
    good,
    key_of_account,
    make_ops,
    measured,
    running,
    scripted,
    silent,
)
from testbed.fixtures.registering import account
from testbed.fixtures.world import add_log_score, add_server
from testbed.ntp.server import Fleet
from testbed.ntp.spec import ServerSpec
from testbed.ports import free_port
from testbed.waiting import PATIENCE, wait_until, waited_for_cpu

NUMBERS = itertools.count(1)
SHORT = 0.5
"""Seconds that tests wait for agents that never answer."""
ONLINE, DISCOVERY = "/ops/monitors/online", "/ops/monitors/discovery"
METRICS, CHECK = "/ops/monitors/metrics?name=", "/ops/check/ntp/"


@pytest.fixture
async def session(broker: Broker) -> AsyncIterator[BrokerSession]:
    async with api_session(broker) as connected:
        yield connected


@pytest.fixture
def ops(sqlite_engine: Engine, tmp_path: Path, session: BrokerSession) -> Ops:
    return make_ops(sqlite_engine, tmp_path, session)


@pytest.fixture
def hasty(sqlite_engine: Engine, tmp_path: Path, session: BrokerSession) -> Ops:
    """An API that soon gives up waiting."""
    return make_ops(sqlite_engine, tmp_path, session, check_within=SHORT, metrics_within=SHORT)


@pytest.fixture
def brokerless(sqlite_engine: Engine, tmp_path: Path) -> Ops:
    """An API whose broker has never been there."""
    address = BrokerAddress("127.0.0.1", free_port())
    return make_ops(sqlite_engine, tmp_path, BrokerSession(address, Identity("api", "api"), lambda: "no token"))


def short(kind: str = "x") -> str:
    """Return a name that no other test has used at the broker."""
    return f"nlams{next(NUMBERS)}-{kind}"


# ---- checks ----------------------------------------------------------------------------------------------------------


async def test_a_real_agent_measures_and_gives_its_metrics(ops: Ops, broker: Broker, tmp_path: Path) -> None:
    name = add_agent(ops.api.services.engine, short("real"))
    specs = [ServerSpec(address="127.77.1.1", port=0), ServerSpec(address="127.77.2.1", port=0, offset=0.2503)]
    async with Fleet(specs) as fleet, pool_of(broker, name) as pool:
        right, server = fleet.specs
        flags = {"port": server.port}
        server_id = transaction(ops.api.services.engine, lambda c: add_server(c, server.address, flags=flags))
        with AgentProcess(tmp_path, broker, name) as agent:
            agent.start()
            await pool.configure(base_checks=[f"{right.address}:{right.port}"])
            await wait_until(pool.probing)
            [plan, found, end] = await ops.check("?samples=1", server.address)
            metrics = await ops.ask("GET", METRICS + name.partition(".")[0])
        await pool.forget()
    assert plan == {
        "check": "ntp",
        "ip": server.address,
        "port": server.port,
        "server_id": server_id,
        "samples": 1,
        "asked": [{"monitor": name, "usual_rtt": None}],
    }
    assert found["monitor"] == name and found["result"]["offset"] == pytest.approx(0.2503, abs=0.02)
    assert found["result"]["stratum"] == server.stratum and "server_id" not in found["result"]
    assert end == {"asked": 1, "measured": 1}
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE ntppool_agent_probes_total counter\n" in metrics.text


async def test_answers_are_sent_as_they_come(ops: Ops, broker: Broker) -> None:
    first, second = (add_agent(ops.api.services.engine, short()) for _ in range(2))
    seen: list[Any] = []
    arrived = asyncio.Event()

    async def on_line(line: Any) -> None:
        seen.append(line)
        if line.get("monitor") == first:
            arrived.set()

    async def later(request: AdHocRequest) -> list[Said]:
        """Answer when the client has the other's answer."""
        await arrived.wait()
        return [measured(request)]

    async with scripted(broker, {first: good, second: later}):
        await ops.stream(CHECK + IP, on_line)
    assert [line.get("monitor") for line in seen] == [None, first, second, None]
    assert seen[-1] == {"asked": 2, "measured": 2}


async def test_whatever_an_agent_sends_the_others_are_heard(ops: Ops, broker: Broker) -> None:
    kinds = ("good", "evil", "big", "many", "poor")
    names = {kind: add_agent(ops.api.services.engine, short(kind)) for kind in kinds}
    tried = asyncio.Event()

    async def slow(request: AdHocRequest) -> list[Said]:
        await tried.wait()
        return [measured(request, offset=0.5)]

    async def evil(request: AdHocRequest) -> list[Said]:
        """Answer for another agent, then nonsense."""
        return [(TOPICS.data(names["good"], request.id), measured(request, offset=9.0)), b"\xff\x00{"]

    async def big(request: AdHocRequest) -> list[Said]:
        return [measured(request) + b" " * MAX_ANSWER]

    async def many(request: AdHocRequest) -> list[Said]:
        tried.set()
        return [measured(request, offset=index / 100) for index in range(50)]

    async def poor(request: AdHocRequest) -> list[Said]:
        return [encode(AdHocAnswer(id=request.id, error="\x1b[2J\n" + "x" * 999))]

    scripts = dict(zip(names.values(), (slow, evil, big, many, poor), strict=True))
    async with scripted(broker, scripts) as refused:
        [plan, *found, end] = await ops.check()
    assert sorted(one["monitor"] for one in plan["asked"]) == sorted(names.values())
    by_name = {one["monitor"]: one for one in found}
    assert len(found) == len(by_name) == 5 and end == {"asked": 5, "measured": 2}
    assert by_name[names["good"]]["result"]["offset"] == 0.5, "nobody answers for another"
    assert [topic.split("/")[4] for topic in refused] == [names["good"]]
    assert by_name[names["many"]]["result"]["offset"] == 0.0, "the first answer counts"
    said = {kind: by_name[names[kind]].get("said", "").removeprefix(names[kind]) for kind in kinds}
    assert said["evil"].startswith(" gave an invalid answer: ")
    assert said["big"].startswith(" answered with ") and said["big"].endswith(f"more than {MAX_ANSWER}")
    assert said["poor"].startswith(" did not measure: \x1b[2J\nxxx") and len(said["poor"]) < 300


async def test_text_of_agents_cannot_affect_a_terminal(ops: Ops, broker: Broker) -> None:
    name = add_agent(ops.api.services.engine, short(), why_not="\x1b[2J\x7f\u202e")

    async def rude(request: AdHocRequest) -> list[Said]:
        return [encode(AdHocAnswer(id=request.id, error="\x1b[2J\x7f\u202e\x9b"))]

    async with scripted(broker, {name: rude}):
        answers = [await ops.ask("POST", CHECK + IP), await ops.ask("GET", ONLINE), await ops.ask("GET", DISCOVERY)]
    for answer in answers:
        assert answer.status_code == 200
        assert all(line.isascii() and line.isprintable() for line in answer.text.split("\n"))


async def test_an_agent_that_does_not_answer_is_named(hasty: Ops, broker: Broker) -> None:
    mute, gone = (add_agent(hasty.api.services.engine, short()) for _ in range(2))
    async with scripted(broker, {mute: silent}):
        [_, *found, end] = await hasty.check()
        assert sorted(one["said"] for one in found) == sorted(f"{one} did not answer in time" for one in (mute, gone))
        assert end == {"asked": 2, "measured": 0}
        answer = await hasty.ask("GET", METRICS + mute)
        assert (answer.status_code, answer.text) == (504, f"{mute} did not answer in time.\n")


async def test_checks_at_once_get_their_own_answers(ops: Ops, broker: Broker) -> None:
    names = [add_agent(ops.api.services.engine, short()) for _ in range(2)]
    requests: list[AdHocRequest] = []
    both = asyncio.Event()

    async def by_request(request: AdHocRequest) -> list[Said]:
        requests.append(request)
        if len(requests) == 4:
            both.set()
        await both.wait()
        last = int(str(request.ip).rpartition(".")[2])
        return [measured(request, offset=float(last))]

    async with scripted(broker, dict.fromkeys(names, by_request)):
        checks = await asyncio.gather(ops.check(ip="127.77.0.3"), ops.check(ip="127.77.0.4"))
    for last, (_, *found, end) in zip((3, 4), checks, strict=True):
        assert [one["result"]["offset"] for one in found] == [last, last] and end["measured"] == 2
    assert len({request.id for request in requests}) == 2


async def test_answers_of_those_who_were_not_asked_do_not_count(ops: Ops, broker: Broker) -> None:
    asked, foreign = (add_agent(ops.api.services.engine, short()) for _ in range(2))
    other = BrokerSession(broker.address, Identity("x", "x/1"), lambda: broker.token(Role.SERVER, "x", "devel"))

    async def betray(request: AdHocRequest) -> list[Said]:
        """Let another client, which may publish anywhere, answer first."""
        for topic in (TOPICS.data(foreign, request.id), TOPICS.data(asked, "another"), TOPICS.data("x", request.id)):
            await other.publish(topic, measured(request, offset=9.0))
        return [measured(request)]

    async with running(other), scripted(broker, {asked: betray}):
        [_, found, end] = await ops.check(f"?from={asked}")
    assert found["monitor"] == asked and found["result"]["offset"] == 0.001 and end == {"asked": 1, "measured": 1}


# ---- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"metrics": "ntppool_agent_probes_total 7"}, 200, "ntppool_agent_probes_total 7\n"),
        (
            {"metrics": "ntppool_agent_probes_total 7\nup 1\n"},
            502,
            " answered with metrics that are not an agent's (line 2).\n",
        ),
        ({"error": "busy"}, 502, " refused: busy.\n"),
        ({"id": "another"}, 502, " answered another request.\n"),
    ],
)
async def test_metrics_are_an_agents_or_none(
    ops: Ops, broker: Broker, fields: dict[str, str], status: int, words: str
) -> None:
    name = add_agent(ops.api.services.engine, short())

    async def script(request: AdHocRequest) -> list[Said]:
        return [encode(AdHocAnswer(**{"id": request.id, **fields}))]

    async with scripted(broker, {name: script}):
        answer = await ops.ask("GET", METRICS + name)
    assert (answer.status_code, answer.text) == (status, words if status == 200 else name + words)


async def test_metrics_of_agents_that_cannot_answer_are_refused_at_once(brokerless: Ops) -> None:
    engine = brokerless.api.services.engine
    offline, older = add_agent(engine, short(), online=False), add_agent(engine, short(), older=True)
    for name, words in (
        (offline, f"{offline} is not connected."),
        (older, f"{older} runs an agent that answers no requests (version 0.1.0)."),
        *(("nobody", "There is no monitor called 'nobody'."), ("%2B", "There is no monitor called '+'.")),
        ("nlams%25", "There is no monitor called 'nlams%'."),
    ):
        answer = await brokerless.ask("GET", METRICS + name)
        assert (answer.status_code, answer.text) == (404, f"{words}\n")
    for path in (METRICS, f"{METRICS}a&name=b", METRICS.partition("?")[0], f"{METRICS}{'a' * 254}", f"{METRICS}a&x=1"):
        assert (await brokerless.ask("GET", path)).status_code == 400


# ---- lists -----------------------------------------------------------------------------------------------------------


async def test_lists_have_those_who_are_connected(brokerless: Ops) -> None:
    engine = brokerless.api.services.engine
    both = add_agent(engine, "jptyo1-both", ["v4", "v6"], probing=False, why_not="the clock is off")
    older = add_agent(engine, "uspao1-older", older=True)
    add_agent(engine, "nlams1-off", online=False)
    add_agent(engine, "nlams1-silent", seen=utc_now() - MONITOR_GONE)
    add_agent(engine, "nlams1-gone", status="deleted")
    add_agent(engine, "nlams1-other", env="test")
    [first, second] = (await brokerless.ask("GET", ONLINE)).json()
    assert [first["name"], second["name"]] == [both, older]
    assert list(first["protocols"]) == ["v4", "v6"] and first["version"] == "0.1.0" and first["spool_batches"] == 0
    shown = first["protocols"]["v6"]
    assert shown["address"].startswith("2001:db8:")
    assert shown | {"address": ""} == {
        "address": "",
        "status": "active",
        "probing": False,
        "why_not": "the clock is off",
        "assignments": 3,
        "last_results": None,
    }
    assert abs(datetime.fromisoformat(first["last_seen"]) - datetime.now(UTC)) < timedelta(minutes=2)
    assert second["protocols"]["v4"]["probing"] is None
    answer = await brokerless.ask("GET", DISCOVERY)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {
            "targets": ["127.0.0.1:8086"],
            "labels": {
                "__scheme__": "http",
                "__metrics_path__": "/ops/monitors/metrics",
                "__param_name": both,
                "instance": both,
                "__meta_ntppool_account": "",
                "__meta_ntppool_location": "",
                "__meta_ntppool_version": "0.1.0",
                "__meta_ntppool_status_v4": "active",
                "__meta_ntppool_status_v6": "active",
            },
        }
    ]
    assert (await brokerless.ask("GET", f"{ONLINE}?limit=1")).status_code == 400


# ---- who and what is refused -----------------------------------------------------------------------------------------


async def test_only_operators_are_answered(brokerless: Ops) -> None:
    services = brokerless.api.services
    revoked = key_of_account(services.engine, services.peppers, brokerless.account_id)
    oldest, newest = sa.select(sa.func.min(api_keys.c.id)), sa.select(sa.func.max(api_keys.c.id))
    transaction(services.engine, lambda c: revoke_key(c, c.scalar(newest) or 0, services.now()))
    stranger, alike = (
        key_of_account(services.engine, services.peppers, account(services.engine, token)) for token in ("x", "ops2")
    )
    host = add_host(brokerless.api, short()).key.clear
    refused = [
        *((None, 401), ("", 401), ("nonsense", 401), (brokerless.key[:-1] + "g", 401), (revoked, 401)),
        *(("ntpa_" + "0" * 64, 401), (host, 403), (stranger, 403), (alike, 403)),
    ]
    for number, (key, status) in enumerate(refused):
        method, path = [("GET", ONLINE), ("GET", DISCOVERY), ("GET", METRICS + "x"), ("POST", CHECK + IP)][number % 4]
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = await brokerless.api.ask(method, path, headers=headers)
        assert (answer.status_code, answer.headers.get("www-authenticate")) == (
            status,
            "Bearer" if status == 401 else None,
        )
        assert key is None or len(key) < 9 or key not in answer.text
    for _ in range(MOST - len(refused)):
        await brokerless.ask("GET", ONLINE, key=stranger)
    answer = await brokerless.ask("GET", ONLINE)
    assert answer.status_code == 429 and answer.headers["retry-after"] == "600", "the network has to wait"
    assert (await brokerless.ask("GET", ONLINE, peer="8.8.8.8")).status_code == 200
    assert (await brokerless.ask("GET", ONLINE)).status_code == 200, "whose key is known need not"
    transaction(services.engine, lambda c: revoke_key(c, c.scalar(oldest) or 0, services.now()))
    assert [(await brokerless.ask("GET", ONLINE)).status_code for _ in range(2)] == [401, 429]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (CHECK + "10.0.0.1", 400, "10.0.0.1 is a private address; only public addresses are measured."),
        (CHECK + "127.0.0.1", 400, "127.0.0.1 is a loopback address; only public addresses are measured."),
        (CHECK + "ff02::101", 400, "ff02::101 is not the address of one host."),
        (CHECK + "time.example", 400, "'time.example' is not an IP address."),
        (CHECK + "8.8.4.4?monitors=13", 400, "monitors: must be 1 to 12."),
        (CHECK + "8.8.4.4?samples=0", 400, "samples: must be 1 to 3."),
        (CHECK + "8.8.4.4?samples=1&samples=2", 400, "samples: was given more than once."),
        (CHECK + "8.8.4.4?form=nlams1-x", 400, "parameter 'form': must be one of from, monitors, samples."),
        (CHECK + "8.8.4.4?" + "&".join(["from=a"] * 13), 400, "from: at most 12 monitors measure at once."),
        (CHECK + "8.8.4.4?from=nobody", 404, "There is no monitor called 'nobody'."),
        (CHECK + "8.8.4.4", 409, "No monitor can measure 8.8.4.4 now: none that is connected probes by IPv4."),
    ],
)
async def test_what_may_not_be_measured_is_refused_in_words(
    sqlite_engine: Engine, tmp_path: Path, session: BrokerSession, path: str, status: int, words: str
) -> None:
    ops = make_ops(sqlite_engine, tmp_path, session, env="prod")
    add_agent(sqlite_engine, "nlams1-v6", ["v6"], env="prod")
    answer = await ops.ask("POST", path)
    assert (answer.status_code, answer.text) == (status, f"{words}\n")


async def test_named_monitors_that_cannot_measure_are_named_with_the_reason(ops: Ops, broker: Broker) -> None:
    engine = ops.api.services.engine
    able = add_agent(engine, short("able"))
    unfit = {
        add_agent(engine, short("off"), online=False): "is not connected",
        add_agent(engine, short("old"), older=True): "runs an agent that answers no requests (version 0.1.0)",
        add_agent(engine, short("six"), ["v6"]): "has no IPv4",
        add_agent(engine, short("rest"), status="paused"): "is paused by IPv4",
        add_agent(engine, short("new"), status="pending"): "is pending by IPv4",
        add_agent(engine, short("off"), probing=False, why_not="its clock is off"): "does not probe: its clock is off",
    }
    query = "?" + "&".join(f"from={name.partition('.')[0]}" for name in (able, able, *unfit))
    async with scripted(broker, {able: good}):
        [plan, *found, end] = await ops.check(query)
        assert plan["asked"] == [{"monitor": able, "usual_rtt": None}] and end == {"asked": 7, "measured": 1}
        assert {one["monitor"]: one.get("said") for one in found} == {
            able: None,
            **{name: f"{name} {why}" for name, why in unfit.items()},
        }
        [plan, found_alone, end] = await ops.check()
    assert [one["monitor"] for one in plan["asked"]] == [able] == [found_alone["monitor"]], "no other one may"


async def test_each_operator_has_so_many_checks_a_minute_and_each_is_logged(
    ops: Ops, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    services, name = ops.api.services, add_agent(ops.api.services.engine, short())
    other = key_of_account(services.engine, services.peppers, ops.account_id)
    caplog.set_level("INFO", "api.ops.desk")
    async with scripted(broker, {name: good}):
        for _ in range(CHECKS_PER_MINUTE):
            await ops.check()
        answer = await ops.ask("POST", CHECK + IP)
        assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 60
        assert (await ops.ask("POST", CHECK + IP, key=other)).status_code == 200
    logged = [record.getMessage() for record in caplog.records if record.name == "api.ops.desk"]
    assert len(logged) == CHECKS_PER_MINUTE + 1
    pattern = rf"check of {IP} by key (\d+) of account account \d+: asking {name}"
    keys = [found[1] for line in logged if (found := re.fullmatch(pattern, line))]
    assert len(keys) == len(logged) and len(set(keys[:-1])) == 1 != keys[-1]


async def test_waiting_requests_are_limited(brokerless: Ops) -> None:
    name = add_agent(brokerless.api.services.engine, short())
    places = [brokerless.desk.waiting.one() for _ in range(8)]
    for place in places:
        place.__enter__()
    for method, path in (("POST", CHECK + IP), ("GET", METRICS + name)):
        answer = await brokerless.ask(method, path)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        assert answer.text == "Too many requests to agents are waiting at once; try again in a few seconds.\n"
    assert (await brokerless.ask("GET", ONLINE)).status_code == 200, "which asks no agent"
    for place in places:
        place.__exit__(None, None, None)


async def test_a_client_that_leaves_gives_its_place_back(
    sqlite_engine: Engine, tmp_path: Path, session: BrokerSession, broker: Broker
) -> None:
    ops = make_ops(sqlite_engine, tmp_path, session, check_within=10 * PATIENCE)
    mute, gone = add_agent(sqlite_engine, short()), asyncio.Event()

    async def on_line(line: Any) -> None:
        assert line["asked"] == [{"monitor": mute, "usual_rtt": None}]
        assert ops.desk.waiting.taken == ops.desk.checks.taken == 1
        gone.set()

    async with scripted(broker, {mute: silent}), asyncio.timeout(PATIENCE):
        await ops.stream(CHECK + IP, on_line, gone=gone)
    assert ops.desk.waiting.taken == ops.desk.checks.taken == 0


# ---- the broker ------------------------------------------------------------------------------------------------------


async def test_without_a_broker_the_answer_is_503(brokerless: Ops) -> None:
    name = add_agent(brokerless.api.services.engine, short())
    for method, path in (("POST", CHECK + IP), ("GET", METRICS + name)):
        await _is_refused_in_time(brokerless, method, path)
    assert brokerless.desk.waiting.taken == brokerless.desk.checks.taken == 0


async def test_a_broker_that_is_lost_and_found_does_no_harm(
    sqlite_engine: Engine, tmp_path: Path, fresh_broker: Broker
) -> None:
    answered, mute = (add_agent(sqlite_engine, short()) for _ in range(2))
    lines: list[Any] = []

    async def on_line(line: Any) -> None:
        lines.append(line)
        if line.get("monitor") == answered:
            await asyncio.to_thread(fresh_broker.kill)

    async with api_session(fresh_broker) as session:
        ops = make_ops(sqlite_engine, tmp_path, session, check_within=10 * PATIENCE)
        async with scripted(fresh_broker, {answered: good, mute: silent}), asyncio.timeout(PATIENCE):
            await ops.stream(CHECK + IP, on_line)
        assert lines[1]["result"] is not None and lines[3] == {"asked": 2, "measured": 1}
        assert lines[2]["said"] == f"{mute} had not answered when the connection to the broker was lost"
        assert (await ops.ask("POST", CHECK + IP)).status_code == 503
        await asyncio.to_thread(fresh_broker.start)
        async with scripted(fresh_broker, {answered: good}):
            await session.wait_ready()
            assert (await ops.check(f"?from={answered}"))[-1] == {"asked": 1, "measured": 1}


async def test_a_silent_broker_delays_nobody_for_long(
    sqlite_engine: Engine, tmp_path: Path, fresh_broker: Broker
) -> None:
    name = add_agent(sqlite_engine, short())
    async with api_session(fresh_broker) as session:
        ops = make_ops(sqlite_engine, tmp_path, session)
        process = fresh_broker.process.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await _is_refused_in_time(ops, "GET", METRICS + name)
        finally:
            process.send_signal(signal.SIGCONT)


async def _is_refused_in_time(ops: Ops, method: str, path: str) -> None:
    """Check that the broker's absence is told within 5 seconds, apart from what a busy machine adds."""
    began, waited = time.monotonic(), waited_for_cpu([os.getpid()])
    answer = await ops.ask(method, path)
    assert (answer.status_code, answer.text) == (503, "The broker does not answer; try again later.\n")
    assert time.monotonic() - began - (waited_for_cpu([os.getpid()]) - waited) < 5.0


# ---- the ledger ------------------------------------------------------------------------------------------------------


def test_every_database_tells_who_is_near_and_far(engine: Engine) -> None:
    now = utc_now()
    names = [add_agent(engine, f"nlams{number}-x") for number in range(1, 6)]
    unknown = add_agent(engine, "uspao1-x")

    def fill(connection: Connection) -> int:
        ids = {row.tls_name: row.id for row in connection.execute(sa.select(monitors.c.id, monitors.c.tls_name))}
        server_id = add_server(connection, IP, flags={"port": 1123})
        other = add_server(connection)
        for distance, name in enumerate(names, 1):
            ages = ((1, distance * 10_000), (2, distance * 10_000 + 777), (25, 1))
            for hours, rtt in ages:
                add_log_score(connection, server_id, ids[name], now - timedelta(hours=hours), rtt=rtt)
            add_log_score(connection, server_id, ids[name], now - timedelta(hours=1), rtt=None)
        add_log_score(connection, other, ids[unknown], now - timedelta(hours=1))
        return server_id

    server_id = transaction(engine, fill)

    def plan(monitors: int) -> Plan:
        wanted = Wanted(parse_target("devel", IP), monitors=monitors)
        with reading(engine) as connection:
            return plan_check(connection, "devel", wanted, now, random.Random(1))

    assert (plan(3).server_id, plan(3).port) == (server_id, 1123)
    assert [(one.name, one.usual_rtt) for one in plan(3).chosen] == [
        *((names[0], 0.01), (names[2], 0.03), (names[4], 0.05)),
    ]
    assert [one.name for one in plan(6).chosen] == [*names, unknown]

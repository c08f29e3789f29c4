"""Test ``ntppool-monitor check`` with a real broker: a table in lines as they come, and exit codes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import Engine

from api.ops.check import Finding, Plan, Wanted
from api.ops.choice import Candidate
from api.ops.kept_routes import keep_route
from api.ops.target import parse_target
from ops.__main__ import main
from ops.check import Shown
from runtime.db.engine import transaction, utc_now
from schema.messages import AdHocRequest, Hop, HopAnswer, Result, Trace
from testbed.fixtures.broker import Broker
from testbed.fixtures.ops import IP, Said, add_agent, measured, scripted, traced
from testbed.fixtures.world import add_server

ABLE, RUDE, OFF = "nlams81-check", "uspao81-check", "jptyo81-check"


@pytest.fixture
def ledger(sqlite_engine: Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A ledger with monitors, and settings for it and the broker."""
    given = {"DEPLOYMENT_MODE": "devel", "MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(broker.address.port)}
    url = sqlite_engine.url.render_as_string(hide_password=False)
    for name, value in (given | {"JWT_KEY": broker.key.verification_text(), "DATABASE_DSN": url}).items():
        monkeypatch.setenv(name, value)
    for name in ("MQTT_CA_FILE", "JWT_KEY_FILE", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return sqlite_engine


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["check", *arguments])


async def answers(request: AdHocRequest) -> list[Said]:
    return [measured(request, offset=-0.000267, rtt=0.0123)]


async def rude(request: AdHocRequest) -> list[Said]:
    return [measured(request, offset=None, rtt=None, stratum=None, error="\x1b[2J\tx", received=0)]


async def test_each_finding_is_a_line(ledger: Engine, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    able, other = add_agent(ledger, ABLE), add_agent(ledger, RUDE)
    async with scripted(broker, {able: answers, other: rude}):
        assert await run(IP) == 0
        said = capsys.readouterr()
        assert said.err == ""
        head, *lines = said.out.splitlines()
        assert head == "monitor\tusual rtt\trtt\toffset\tstratum\tfinding"
        assert sorted(lines) == [f"{able}\t\t0.0123\t-0.000267\t2\t", f"{other}\t\t\t\t\t\\x1b[2J\\tx"]
        assert await run(IP, "--from", ABLE, "--json", "--samples", "1") == 0
        plan, found, end = map(json.loads, capsys.readouterr().out.splitlines())
        assert plan["samples"] == 1 and found["result"]["rtt"] == 0.0123 and end == {"asked": 1, "measured": 1}


async def test_a_named_monitor_that_cannot_measure_makes_it_fail(
    ledger: Engine, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    able, off = add_agent(ledger, ABLE), add_agent(ledger, OFF, online=False)
    async with scripted(broker, {able: answers}):
        assert await run(IP, "--from", able, "--from", OFF) == 1
    said = capsys.readouterr()
    assert f"{off}\t\t\t\t\tis not connected\n" in said.out
    assert said.err == f"ntppool-monitor: {IP}: 1 of 2 monitors measured\n"


def test_people_get_aligned_columns_and_milliseconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    names = [f"{short}.devel.mon.example" for short in (ABLE, OFF)]
    plan = Plan(Wanted(parse_target("devel", IP)), 123, None, [Candidate(name, "nl") for name in names], [])
    result = Result(server_id=0, ip=IP, ts=datetime.now(UTC), offset=-0.000267, rtt=0.0123, stratum=2)
    shown = Shown(plan, as_json=False)
    shown.show(Finding(names[0], 0.25, result))
    shown.show(Finding(names[1], None, said="did not answer in time"))
    shown.end(1)
    assert capsys.readouterr().out.splitlines() == [
        "monitor        usual rtt        rtt         offset  stratum  finding",
        "nlams81-check   250.0 ms    12.3 ms      -0.267 ms        2",
        "jptyo81-check                                                did not answer in time",
    ]


ROUTE = [
    Trace(
        method="udp",
        hops=[
            Hop(ttl=1, answers=[HopAnswer(ip="10.0.0.1", rtt=0.00041), HopAnswer(ip="10.0.0.1", rtt=0.000399)]),
            Hop(ttl=2, answers=[None, None]),
            Hop(ttl=3, answers=[HopAnswer(ip="198.51.100.13", rtt=0.0041), None]),
            Hop(
                ttl=4,
                answers=[
                    HopAnswer(ip="2001:db8:1111:2222:3333:4444:5555:6666", rtt=12.3456, note="!X"),
                    HopAnswer(ip="::1"),
                ],
            ),
        ],
        tried=30,
        reached=False,
        error="stopped after 8 s",
    ),
    Trace(method="icmp", hops=[Hop(ttl=1, answers=[HopAnswer(ip=IP, rtt=0.1)])], tried=1, reached=True),
    Trace(method="tcp", hops=[], tried=30, reached=False),
]


async def on_the_way(request: AdHocRequest) -> list[Said]:
    return [traced(request, *ROUTE)]


async def test_routes_are_shown_kept_and_shown_again(
    ledger: Engine, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    able, other = add_agent(ledger, ABLE, traceroute=True), add_agent(ledger, RUDE)
    transaction(ledger, lambda connection: add_server(connection, IP))
    async with scripted(broker, {able: on_the_way}):
        assert await run(IP, "--traceroute", "--from", ABLE, "--from", RUDE) == 1
        said = capsys.readouterr()
        assert said.err == f"ntppool-monitor: {IP}: 1 of 2 monitors traced the route\n"
        head, *lines = said.out.splitlines()
        assert head == "monitor\tmethod\thop\taddress\trtt\tnote\tfinding"
        assert lines[0] == f"{other}\t\t\t\t\t\thas no traceroute program"
        assert lines[1] == f"{able}\tudp\t1\t10.0.0.1\t0.00041\t\t"
        assert lines[7] == f"{able}\tudp\t4\t2001:db8:1111:2222:3333:4444:5555:6666\t12.3456\t!X\t"
        assert len(lines) == 10
        assert await run(IP, "--traceroute", "--json") == 0
    plan, found, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert plan["check"] == "traceroute" and [one["method"] for one in found["traces"]] == ["udp", "icmp", "tcp"]
    assert end == {"asked": 1, "traced": 1, "kept": 1}
    assert await asyncio.to_thread(main, ["servers", "routes", IP, "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert [(one["monitor"], one["answered"], one["traces"]) for one in kept] == [(able, False, found["traces"])] * 2
    assert await asyncio.to_thread(main, ["servers", "routes", IP, "--limit", "1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "at\tmonitor\tmethod\thop\taddress\trtt\tnote" and len(lines) == 9


def test_people_get_the_routes_that_are_kept(
    ledger: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monitor = add_agent(ledger, ABLE)
    server_id = transaction(ledger, lambda connection: add_server(connection, IP))
    assert main(["servers", "routes", IP]) == 0
    assert capsys.readouterr().out == "no routes\n"
    plan = Plan(Wanted(parse_target("devel", IP), kind="traceroute"), 123, server_id, [], [])
    silence = Result(server_id=0, ip=IP, ts=datetime.now(UTC), no_response=True)
    at = utc_now().replace(microsecond=0)
    for seconds in (1, 0):
        traces = ROUTE[seconds + 1 :]
        found = Finding(monitor, None, silence, traces)
        transaction(ledger, lambda c, f=found, s=seconds: keep_route(c, plan, f, at - timedelta(seconds=s)))
    assert main(["servers", "routes", str(server_id)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{at - timedelta(seconds=1):%Y-%m-%d %H:%M:%S}  {ABLE}: {IP} did not answer NTP",
        "  TCP to port 123: no answer (30 tried)",
        f"{at:%Y-%m-%d %H:%M:%S}  {ABLE}: {IP} did not answer NTP",
        "  ICMP echo: reached at hop 1",
        f"     1  {IP}   100.0 ms",
        "  TCP to port 123: no answer (30 tried)",
    ]


def test_people_get_routes_that_fit_their_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    names = [f"{short}.devel.mon.example" for short in (ABLE, OFF)]
    wanted = Wanted(parse_target("devel", IP), kind="traceroute")
    shown = Shown(Plan(wanted, 123, None, [Candidate(name, "nl") for name in names], []), as_json=False)
    silence = Result(server_id=0, ip=IP, ts=datetime.now(UTC), no_response=True)
    shown.show(Finding(names[0], 0.25, silence, ROUTE))
    shown.show(Finding(names[0], 0.25, Result(server_id=0, ip=IP, ts=datetime.now(UTC), rtt=0.0123), ROUTE[1:2]))
    shown.show(Finding(names[1], None, said="did not answer in time"))
    shown.end(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "nlams81-check: no answer to NTP",
        "  UDP to port 123: no answer beyond hop 4 (30 tried; stopped after 8 s)",
        "     1  10.0.0.1                                   0.4 ms     0.4 ms",
        "     2  no answer",
        "     3  198.51.100.13                              4.1 ms          *",
        "     4  2001:db8:1111:2222:3333:4444:5555:6666  12345.6 ms !X",
        "        ::1                                             ?",
        "  ICMP echo: reached at hop 1",
        f"     1  {IP}   100.0 ms",
        "  TCP to port 123: no answer (30 tried)",
        "nlams81-check: answers NTP after 12.3 ms",
        "  ICMP echo: reached at hop 1",
        f"     1  {IP}   100.0 ms",
        "jptyo81-check: did not answer in time",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["224.0.1.1"], 2, "address '224.0.1.1': 224.0.1.1 is not the address of one host"),
        (["time.example"], 2, "address 'time.example': 'time.example' is not an IP address"),
        ([IP, "--samples", "4"], 2, "Invalid value for '--samples': "),
        ([IP, "--from", "nobody"], 1, "There is no monitor called 'nobody'"),
        ([IP, "--traceroute", "--samples", "1"], 2, "--samples: conflicts with --traceroute; give only one of them"),
        (
            [IP, "--traceroute"],
            1,
            f"No monitor can trace the route to {IP} now: none that is connected probes by IPv4 and",
        ),
        ([IP], 1, f"No monitor can measure {IP} now: none that is connected probes by IPv4"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    ledger: Engine, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main(["check", *arguments]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"ntppool-monitor: {words}")


def test_without_a_broker_it_fails(
    ledger: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_agent(ledger, ABLE)
    monkeypatch.setenv("MQTT_PORT", "1")
    assert main(["check", IP]) == 1
    assert "ntppool-monitor: broker mqtt://127.0.0.1:1: " in capsys.readouterr().err

"""Test ``ntppool-monitor check`` with a real broker: a table in lines as they come, and exit codes."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy.engine import Engine

from api.ops.check import Finding, Plan, Wanted
from api.ops.choice import Candidate
from api.ops.target import parse_target
from ops.__main__ import main
from ops.check import Shown
from schema.messages import AdHocRequest, Result
from testbed.fixtures.broker import Broker
from testbed.fixtures.ops import IP, Said, add_agent, measured, scripted

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
    shown.end(plan, 1)
    assert capsys.readouterr().out.splitlines() == [
        "monitor        usual rtt        rtt         offset  stratum  finding",
        "nlams81-check   250.0 ms    12.3 ms      -0.267 ms        2",
        "jptyo81-check                                                did not answer in time",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["224.0.1.1"], 2, "address '224.0.1.1': 224.0.1.1 is not the address of one host"),
        (["time.example"], 2, "address 'time.example': 'time.example' is not an IP address"),
        ([IP, "--samples", "4"], 2, "Invalid value for '--samples': "),
        ([IP, "--from", "nobody"], 1, "There is no monitor called 'nobody'"),
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

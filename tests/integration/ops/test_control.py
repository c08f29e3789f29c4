"""Test ``ntppool-monitor control`` with a real broker: every answer is shown, and none can affect the terminal."""

import asyncio
import getpass
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from auth.tokens import Role
from ops import control as control_module
from ops.__main__ import main
from ops.control import ask
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Subscription
from runtime.settings import WorkerSettings, load_settings
from schema.messages import ControlAnswer, ControlCommand, encode
from schema.topics import Topics
from testbed.fixtures.broker import Broker

TOPICS = Topics("test")
AGENT = "nlams1-evil.test.mon.example"
EVIL = "\x1b]0;owned\x07\n2\tok \u202e"
SEEN = r"\x1b]0;owned\x07\n2\tok \u202e"


@pytest.fixture
def broker() -> Any:
    """Run a separate broker, since control commands to a service reach every worker at a broker."""
    with Broker() as running:
        yield running


@pytest.fixture
def settings(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    """Return the settings of an operator who uses that broker."""
    given = {"DEPLOYMENT_MODE": "test", "MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(broker.address.port)}
    for name, value in (given | {"JWT_KEY": broker.key.verification_text()}).items():
        monkeypatch.setenv(name, value)
    for name in ("MQTT_CA_FILE", "JWT_KEY_FILE", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return load_settings()


@asynccontextmanager
async def somebody(
    broker: Broker, role: Role, name: str, client_id: str, topic: str, payload: bytes
) -> AsyncIterator[None]:
    """Answer every control command on ``topic`` with ``payload``."""
    tasks: set[asyncio.Task[None]] = set()

    def take(message: Incoming) -> None:
        assert message.response_topic is not None
        tasks.add(asyncio.create_task(session.publish(message.response_topic, payload)))

    session = BrokerSession(
        broker.address,
        Identity(name, client_id),
        lambda: broker.token(role, name),
        subscriptions=[Subscription(topic, take)],
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(session.run())
        await session.wait_ready()
        yield
        running.cancel()


def answer(**fields: Any) -> bytes:
    return encode(ControlAnswer(**({"ok": True, "service": "ingest", "command": "ping"} | fields)))


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["control", *arguments])


async def test_answers_of_all_workers_of_a_service_are_shown(
    broker: Broker, settings: WorkerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = TOPICS.service_control("ingest")
    async with AsyncExitStack() as stack:
        for number in range(3):
            payload = answer(details={"client_id": f"ingest/{number}", "due": number, "what": "a b"})
            await stack.enter_async_context(somebody(broker, Role.SERVER, "ingest", f"ingest/{number}", topic, payload))
        assert await run("ingest", "ping") == 0
        said = capsys.readouterr()
        assert sorted(said.out.splitlines()) == [f'ingest/{n}: ok due={n} what="a b"' for n in range(3)]
        assert await run("ingest", "ping", "--json") == 0
        [line] = capsys.readouterr().out.splitlines()
        assert sorted(one["details"]["due"] for one in json.loads(line)) == [0, 1, 2]


async def test_malicious_answer_is_shown_without_affecting_the_terminal(
    broker: Broker, settings: WorkerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = answer(service=EVIL, command=EVIL, message=EVIL, details={"client_id": EVIL, EVIL: EVIL, "x": "a\x9bb"})
    async with somebody(broker, Role.MONITOR, AGENT, AGENT, TOPICS.monitor_control(AGENT), payload):
        assert await run(AGENT, "ping", "--timeout", "30") == 0
        [line] = capsys.readouterr().out.removesuffix("\n").split("\n")
        assert line.isprintable() and line.startswith(f"{SEEN}: ok ") and r"x=a\x9bb" in line
        assert await run(AGENT, "ping", "--json", "--timeout", "30") == 0
        [line] = capsys.readouterr().out.removesuffix("\n").split("\n")
        assert line.isprintable() and line.isascii()
        assert json.loads(line)[0]["details"][EVIL] == EVIL


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (answer(ok=False, message=EVIL), rf"ingest: refused: {SEEN}"),
        (b"\x1b[2J", "?: refused: undecodable answer: JSON is malformed: invalid character (byte 0)"),
    ],
)
async def test_refusal_exits_with_1(
    broker: Broker, settings: WorkerSettings, capsys: pytest.CaptureFixture[str], payload: bytes, shown: str
) -> None:
    async with somebody(broker, Role.MONITOR, AGENT, AGENT, TOPICS.monitor_control(AGENT), payload):
        assert await run(AGENT, "pause", "--timeout", "30") == 1
    said = capsys.readouterr()
    assert said.out == f"{shown}\n"
    assert f"ntppool-monitor: {AGENT}: 1 of 1 refused\n" in said.err


async def test_command_to_an_agent_returns_after_its_only_answer(broker: Broker, settings: WorkerSettings) -> None:
    async with somebody(broker, Role.MONITOR, AGENT, AGENT, TOPICS.monitor_control(AGENT), answer()):
        async with asyncio.timeout(60):
            assert len(await ask(settings, AGENT, ControlCommand(command="ping"), 600.0)) == 1


async def test_missing_answer_exits_with_1(
    broker: Broker, settings: WorkerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("scorer", "ping", "--timeout", "0.1") == 1
    said = capsys.readouterr()
    assert (said.out, "scorer: nobody answered within 0.1 s" in said.err) == ("", True)
    assert await run("scorer", "ping", "--timeout", "0.1", "--json") == 1
    assert capsys.readouterr().out == "[]\n"


async def test_user_without_a_passwd_entry_can_send_control_commands(
    broker: Broker, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr(control_module.os, "getuid", lambda: 12345)
    async with somebody(broker, Role.SERVER, "ingest", "ingest/1", TOPICS.service_control("ingest"), answer()):
        assert [one.ok for one in await ask(settings, "ingest", ControlCommand(command="ping"), 1.0)] == [True]

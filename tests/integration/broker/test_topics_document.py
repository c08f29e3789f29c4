"""Test that the commands in docs/topics.md work, with Mosquitto's own programs and a real broker."""

import asyncio
import json
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from auth.tokens import Role
from runtime.control import Control
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Incoming, PublishRefused, Subscription
from schema.asyncapi.examples import NAME
from schema.messages import AdHocRequest, ControlAnswer, decode, encode
from schema.topics import ANY, Topics
from testbed.fixtures.broker import Broker
from testbed.paths import CHECKOUT
from testbed.waiting import PATIENCE, wait_until

TEXT = (CHECKOUT / "docs" / "topics.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^mosquitto_(?:sub|pub|rr) .*$", TEXT, re.MULTILINE)
TOPICS = Topics("test")
ODD = b'{"seen": "\x1b[2J\x07\r\n"}'


def commands(program: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(f"mosquitto_{program} ")]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A separate broker, since the commands would also print messages that other tests have retained."""
    with Broker() as running:
        yield running


@pytest.fixture
def environment(broker: Broker, tmp_path: Path) -> dict[str, str]:
    """Write option files as the document instructs."""
    for program, role in [("sub", Role.OBSERVER), ("pub", Role.ADMIN), ("rr", Role.ADMIN)]:
        options = f"-h 127.0.0.1\n-p {broker.port}\n-V 5\n-u me\n-I me/\n-P {broker.token(role, 'me')}\n"
        (tmp_path / f"mosquitto_{program}").write_text(options)
    return os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}


@asynccontextmanager
async def session(broker: Broker, role: Role, name: str, *subscriptions: Subscription) -> AsyncIterator[BrokerSession]:
    client_id = name if role is Role.MONITOR else f"{name}/document"
    address = BrokerAddress("127.0.0.1", broker.port)
    made = BrokerSession(
        address, Identity(name, client_id), lambda: broker.token(role, name), subscriptions=subscriptions
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.run())
        await made.wait_ready()
        yield made
        running.cancel()


def run(command: str, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*shlex.split(command), *more], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_document_shows_each_program() -> None:
    assert min(len(commands(program)) for program in ("sub", "pub", "rr")) > 0
    shell = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
    assert subprocess.run(["sh", "-n"], input=shell, text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize(
    "document", [*CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("*/README.md"), CHECKOUT / "README.md"]
)
def test_documented_commands_escape_messages_and_hide_tokens(document: Path) -> None:
    for command in re.findall(r"^mosquitto_(?:sub|rr) .*$", document.read_text(encoding="utf-8"), re.MULTILINE):
        assert " -F %j " in command
        assert not {"-v", "-P", "--pw"} & set(shlex.split(command))
    assert '-P "$(ntppool-monitor' not in document.read_text(encoding="utf-8").replace("-P %s", "")


@pytest.mark.parametrize("command", commands("sub"))
async def test_documented_subscriptions_print_messages_escaped(
    broker: Broker, environment: dict[str, str], command: str
) -> None:
    filters = [word for word in shlex.split(command) if word.startswith("/test/")]
    topic = filters[0].replace("+", "acks").replace("#", "v4")
    watching = asyncio.create_task(asyncio.to_thread(run, command, environment, "-C", "1"))
    async with session(broker, Role.SERVER, "ingest") as sender:
        while not watching.done():
            await sender.publish(topic, ODD)
            await asyncio.wait({watching}, timeout=0.05)
    shown = watching.result()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.removesuffix("\n").isprintable(), "a message cannot steer the terminal"
    if filters != ["/test/#"]:
        message = json.loads(shown.stdout)
        assert (message["topic"], message["payload"].encode()) == (topic, ODD)


@asynccontextmanager
async def workers(broker: Broker, heard: list[tuple[str, ControlAnswer]]) -> AsyncIterator[None]:
    """Answer control commands and requests to any service or agent, as the real ones do."""
    tasks: set[asyncio.Task[None]] = set()

    async def obey(message: Incoming, broker_session: BrokerSession) -> None:
        control = Control("scorer", dict)
        for command in ("rescore", "pause"):
            control.add(command, lambda order: asyncio.sleep(0, {}))
        answer = await control.answer(message)
        if "/requests/" in message.topic:
            request = decode(message.payload, AdHocRequest)
            answer = ControlAnswer(ok=request.ip is not None, service="agent", command="ntp")
        heard.append((message.topic, answer))
        if message.response_topic is not None:
            with suppress(PublishRefused):
                await broker_session.publish(message.response_topic, encode(answer), correlation=message.correlation)

    def take(message: Incoming) -> None:
        sender = monitor if "/monitors/" in message.topic else server
        tasks.add(asyncio.create_task(obey(message, sender)))

    orders = [Subscription(TOPICS.monitor_control(NAME), take), Subscription(TOPICS.request(NAME, ANY), take, qos=0)]
    async with (
        session(broker, Role.SERVER, "scorer", Subscription(TOPICS.service_control(ANY), take)) as server,
        session(broker, Role.MONITOR, NAME, *orders) as monitor,
    ):
        yield
    if tasks:
        await asyncio.wait(tasks)


@pytest.mark.parametrize("command", [*commands("pub"), *commands("rr")])
async def test_documented_commands_are_accepted_and_answered(
    broker: Broker, environment: dict[str, str], command: str
) -> None:
    heard: list[tuple[str, ControlAnswer]] = []
    async with workers(broker, heard):
        more = ["-W", "10"] if command.startswith("mosquitto_rr") else []
        done = await asyncio.to_thread(run, command, environment, *more)
        await wait_until(lambda: heard)
    assert (done.returncode, done.stderr) == (0, "")
    [(topic, answer)] = heard
    assert topic in command
    assert answer.ok, answer.message
    if command.startswith("mosquitto_rr"):
        assert done.stdout.removesuffix("\n").isprintable()
        assert decode(json.loads(done.stdout)["payload"].encode(), ControlAnswer) == answer

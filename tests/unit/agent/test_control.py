"""Test control commands to an agent: executed in sequence, temporary, and never fatal."""

import asyncio
import json
from typing import Any

import pytest

from agent.control import ControlCommands, Pause
from runtime.mqtt.session import Incoming
from schema.messages import ControlAnswer, Status, decode
from testbed.waiting import wait_until

NAME = "a.devel.mon.example"


class RecordingSession:
    """Records published answers."""

    def __init__(self) -> None:
        self.published: list[tuple[str, ControlAnswer]] = []
        self.error: Exception | None = None

    async def publish(self, topic: str, payload: bytes, *, correlation: bytes | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.published.append((topic, decode(payload, ControlAnswer)))


class Done:
    """Records what the commands did."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, name: str) -> Any:
        return lambda: self.calls.append(name)


@pytest.fixture
def done() -> Done:
    return Done()


@pytest.fixture
def commands(done: Done) -> ControlCommands:
    return ControlCommands(
        NAME, lambda: Status(online=True), done.call("recheck"), done.call("look again"), done.call("reload")
    )


def order(command: str, *, retain: bool = False, number: int = 0) -> Incoming:
    payload = json.dumps({"command": command}).encode()
    return Incoming(f"/devel/monitors/control/{NAME}", payload, retain, response_topic=f"/answers/{number}")


async def carry_out(commands: ControlCommands, session: Any, answers: int) -> None:
    running = asyncio.create_task(commands.run(session))
    await wait_until(lambda: len(session.published) >= answers, lambda: str(session.published), within=5)
    running.cancel()


async def test_commands_are_executed_in_order_and_answered(commands: ControlCommands, done: Done) -> None:
    session = RecordingSession()
    for number, command in enumerate(["recheck", "pause", "status", "resume", "reload"]):
        commands.on_message(order(command, number=number))
    await carry_out(commands, session, 5)
    assert [topic for topic, _ in session.published] == [f"/answers/{number}" for number in range(5)]
    assert all(answer.ok for _, answer in session.published)
    assert done.calls == ["recheck", "look again", "look again", "reload"]
    assert session.published[1][1].details == {"paused": True}
    assert session.published[2][1].details["online"] is True
    assert not commands.paused


async def test_retained_command_is_ignored(commands: ControlCommands, done: Done) -> None:
    session = RecordingSession()
    commands.on_message(order("pause", retain=True))
    commands.on_message(order("ping", number=1))
    await carry_out(commands, session, 1)
    assert session.published[0][0] == "/answers/1"
    assert not commands.paused


async def test_commands_beyond_the_queue_limit_are_dropped_and_logged(
    commands: ControlCommands, caplog: pytest.LogCaptureFixture
) -> None:
    session = RecordingSession()
    for number in range(20):
        commands.on_message(order("ping", number=number))
    await carry_out(commands, session, 16)
    assert len(session.published) == 16
    assert caplog.messages.count("control message dropped: too many at once") == 4


async def test_failed_answer_does_not_stop_later_commands(commands: ControlCommands) -> None:
    session = RecordingSession()
    session.error = ValueError("no topic")
    commands.on_message(order("pause"))
    running = asyncio.create_task(commands.run(session))  # type: ignore[arg-type]
    await wait_until(lambda: commands.paused, within=5)
    session.error = None
    commands.on_message(order("ping"))
    await wait_until(lambda: session.published, within=5)
    running.cancel()


async def test_pause_outlasts_the_connection_and_the_identity(done: Done) -> None:
    """A renewed certificate or a moved broker replaces all parts of an agent."""
    pause = Pause()

    def made() -> ControlCommands:
        calls = [done.call(name) for name in ("recheck", "look again", "reload")]
        return ControlCommands(NAME, lambda: Status(online=True), *calls, pause)

    first = made()
    first.on_message(order("pause"))
    await carry_out(first, RecordingSession(), 1)
    assert made().paused

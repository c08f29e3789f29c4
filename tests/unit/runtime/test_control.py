"""Test control commands to a worker: executed, refused, logged with their sender, and answered."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from runtime.control import CommandRefused, Control
from runtime.mqtt.plugin import BrokerPlugin
from runtime.mqtt.session import Incoming, NotConnected, PublishRefused
from schema.messages import ControlAnswer, ControlCommand, decode

TOPIC = "/test/control/scorer"


class RecordingBroker:
    """Fake broker that records published messages."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.published: list[tuple[str, bytes, bytes | None]] = []

    async def publish(self, topic: str, payload: bytes, *, correlation: bytes | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.published.append((topic, payload, correlation))


def order(payload: bytes | dict[str, Any], **properties: Any) -> Incoming:
    return Incoming(TOPIC, payload if isinstance(payload, bytes) else json.dumps(payload).encode(), **properties)


@pytest.fixture
def control() -> Control:
    made = Control("scorer", lambda: {"backlog": 3})

    async def rescore(command: ControlCommand) -> Mapping[str, Any]:
        if command.server_id == 404:
            raise CommandRefused("there is no server 404")
        if command.server_id == 500:
            raise ZeroDivisionError("inside")
        return {"servers": command.server_id}

    made.add("rescore", rescore)
    return made


async def test_command_is_executed_and_its_details_are_returned(control: Control) -> None:
    answer = await control.answer(order({"command": "rescore", "server_id": 7}))
    assert answer == ControlAnswer(ok=True, service="scorer", command="rescore", details={"servers": 7})


async def test_every_worker_supports_ping_status_and_log_level(control: Control) -> None:
    assert (await control.answer(order({"command": "ping"}))).ok
    assert (await control.answer(order({"command": "status"}))).details == {"backlog": 3}
    assert (await control.answer(order({"command": "log-level", "level": "error"}))).details == {"level": "error"}
    assert logging.getLogger().level == logging.ERROR


@pytest.mark.parametrize(
    ("payload", "command", "says"),
    [
        ({"command": "explode"}, "explode", "unknown command; known commands are log-level, ping, rescore, status"),
        ({"command": "log-level"}, "log-level", "needs a level: debug, info, warning or error"),
        ({"command": "log-level", "level": "loud"}, "", "Invalid enum value - at `$.level`"),
        ({"command": "rescore", "server_id": "all"}, "", "Expected `int | null`, got `str` - at `$.server_id`"),
        ({"command": "rescore", "server_id": 404}, "rescore", "there is no server 404"),
        ({"command": "rescore", "server_id": 500}, "rescore", "failed; see the worker's log"),
        ({}, "", 'must be JSON such as {"command": "ping"}: '),
        (b"ping", "", 'must be JSON such as {"command": "ping"}: '),
        (b"\xff", "", 'must be JSON such as {"command": "ping"}: '),
        (b"", "", 'must be JSON such as {"command": "ping"}: '),
    ],
)
async def test_invalid_command_is_answered_with_an_error(
    control: Control, payload: Any, command: str, says: str
) -> None:
    answer = await control.answer(order(payload))
    assert (answer.ok, answer.service, answer.command) == (False, "scorer", command)
    assert says in answer.message


async def test_every_command_is_logged_with_its_sender(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await control.answer(order({"command": "ping"}, user_properties=(("traceparent", "00"), ("sender", "ask"))))
    await control.answer(order(b"nonsense", user_properties=(("sender", "ask"),)))
    await control.answer(order({"command": "ping"}))
    assert caplog.messages[0] == "command 'ping' from ask"
    assert caplog.messages[1].startswith("control message from ask refused: ")
    assert caplog.messages[2] == "command 'ping' from unknown"


@pytest.mark.parametrize(("present", "shown"), [(None, "ask"), (True, "ask"), (False, "ask (unverified)")])
async def test_without_the_plugin_the_name_of_a_sender_is_unverified(
    caplog: pytest.LogCaptureFixture, present: bool | None, shown: str
) -> None:
    caplog.set_level(logging.INFO)
    plugin = BrokerPlugin()
    plugin.present = present
    await Control("scorer", dict, plugin).answer(order({"command": "ping"}, user_properties=(("sender", "ask"),)))
    assert caplog.messages == [f"command 'ping' from {shown}"]


async def test_command_cannot_forge_a_log_line(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await control.answer(order({"command": "ping\nERROR all is lost" + "!" * 10_000}))
    order_came, was_refused = caplog.messages
    for message in (order_came, was_refused):
        assert "\n" not in message
        assert len(message) < 250


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"command": "explode"}, "unknown command"),
        ({"command": "rescore", "server_id": 404}, "there is no server 404"),
        ({"command": "log-level"}, "log-level needs a level"),
    ],
)
async def test_reason_for_refusal_is_logged_even_without_a_response_topic(
    control: Control, caplog: pytest.LogCaptureFixture, given: dict[str, Any], reason: str
) -> None:
    broker: Any = RecordingBroker()
    await control.handle(broker, order(given, user_properties=(("sender", "ask"),)))
    assert broker.published == []
    [(level, message)] = [(r.levelno, r.getMessage()) for r in caplog.records if r.levelno >= logging.WARNING]
    assert level == logging.WARNING
    assert message.startswith(f"command '{given['command']}' from ask refused: ")
    assert reason in message


async def test_answer_goes_to_the_response_topic_with_the_correlation_data(control: Control) -> None:
    broker: Any = RecordingBroker()
    await control.handle(broker, order({"command": "ping"}, response_topic="/test/answers/ask/1", correlation=b"c"))
    [(topic, payload, correlation)] = broker.published
    assert (topic, correlation) == ("/test/answers/ask/1", b"c")
    assert decode(payload, ControlAnswer).ok


async def test_without_a_response_topic_nothing_is_sent(control: Control) -> None:
    broker: Any = RecordingBroker()
    await control.handle(broker, order({"command": "ping"}))
    assert broker.published == []


@pytest.mark.parametrize("error", [NotConnected("away"), PublishRefused("no")])
async def test_failure_to_send_an_answer_is_logged(
    control: Control, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    broker: Any = RecordingBroker(error)
    await control.handle(broker, order({"command": "ping"}, response_topic="#"))
    assert caplog.messages == [f"answer to ping could not be sent: {error}"]

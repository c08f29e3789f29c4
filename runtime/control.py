"""Handle control commands to a worker on ``control/{service}``: decode, log the sender, execute, and answer."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from runtime.log import set_level
from runtime.mqtt.plugin import SENDER, BrokerPlugin
from runtime.mqtt.session import BrokerSession, Incoming, NotConnected, PublishRefused
from schema.messages import ControlAnswer, ControlCommand, Undecodable, decode, encode

log = logging.getLogger(__name__)


class CommandRefused(Exception):
    """The command cannot be executed; the message gives the reason and is sent to the sender."""


Command = Callable[[ControlCommand], Awaitable[Mapping[str, Any]]]
"""Function that executes a control command and returns the details of the answer. Raises :class:`CommandRefused`."""


class Control:
    """Control commands of one worker. ``ping``, ``status`` and ``log-level`` are common to all.

    Args:
        plugin: whether the broker vouches for the names of senders; default: unknown.
    """

    def __init__(
        self, service: str, status: Callable[[], Mapping[str, Any]], plugin: BrokerPlugin | None = None
    ) -> None:
        self._service = service
        self._status = status
        self._plugin = plugin or BrokerPlugin()
        self._commands: dict[str, Command] = {
            "ping": self._ping,
            "status": self._report,
            "log-level": self._log_level,
        }

    def add(self, name: str, command: Command) -> None:
        """Add the command ``name`` to this worker."""
        self._commands[name] = command

    async def handle(self, broker: BrokerSession, message: Incoming) -> None:
        """Execute the command in ``message`` and publish the answer on its response topic, if it has one."""
        answer = await self.answer(message)
        if message.response_topic:
            try:
                await broker.publish(message.response_topic, encode(answer), correlation=message.correlation)
            except (NotConnected, PublishRefused) as error:
                log.warning("answer to %s could not be sent: %s", answer.command, error)

    async def answer(self, message: Incoming) -> ControlAnswer:
        """Execute the command in ``message`` and return the answer."""
        # The broker's plugin sets this property itself and removes a client's value.
        sender = dict(message.user_properties).get(SENDER, "unknown")
        if self._plugin.present is False:
            sender = f"{sender} (unverified)"
        try:
            request = decode(message.payload, ControlCommand)
        except Undecodable as error:
            log.warning("control message from %s refused: %s", sender, error)
            return self._refusal("", f'must be JSON such as {{"command": "ping"}}: {error}')
        answer = await self._execute(request, sender)
        if not answer.ok:
            # Not every sender requests the answer or is there to read it.
            log.warning("command %.100r from %s refused: %.500r", request.command, sender, answer.message)
        return answer

    async def _execute(self, request: ControlCommand, sender: str) -> ControlAnswer:
        log.info("command %.100r from %s", request.command, sender)
        command = self._commands.get(request.command)
        if command is None:
            known = ", ".join(sorted(self._commands))
            return self._refusal(request.command, f"unknown command; known commands are {known}")
        try:
            details = await command(request)
        except CommandRefused as error:
            return self._refusal(request.command, str(error))
        except Exception:
            log.exception("command %r failed", request.command)
            return self._refusal(request.command, "failed; see the worker's log")
        return ControlAnswer(ok=True, service=self._service, command=request.command, details=dict(details))

    def _refusal(self, command: str, why: str) -> ControlAnswer:
        return ControlAnswer(ok=False, service=self._service, command=command, message=why)

    async def _ping(self, request: ControlCommand) -> Mapping[str, Any]:
        # The client id identifies which of several workers has answered.
        return {name: value for name, value in self._status().items() if name == "client_id"}

    async def _report(self, request: ControlCommand) -> Mapping[str, Any]:
        return self._status()

    async def _log_level(self, request: ControlCommand) -> Mapping[str, Any]:
        if request.level is None:
            raise CommandRefused("log-level needs a level: debug, info, warning or error")
        set_level(request.level)
        return {"level": request.level}

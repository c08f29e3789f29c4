"""Orders to a worker on ``control/{service}``: decoded, logged with their sender, carried out, answered."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from runtime.log import set_level
from runtime.mqtt.session import BrokerSession, Incoming, NotConnected, PublishRefused
from schema.messages import ControlAnswer, ControlCommand, Undecodable, decode, encode

log = logging.getLogger(__name__)


class CommandRefused(Exception):
    """The order cannot be carried out; the message says why and goes to the sender."""


Command = Callable[[ControlCommand], Awaitable[Mapping[str, Any]]]
"""Carries an order out and returns the details of the answer. Raises :class:`CommandRefused`."""


class Control:
    """The commands of one worker. ``ping``, ``status`` and ``log-level`` are common to all."""

    def __init__(self, service: str, status: Callable[[], Mapping[str, Any]]) -> None:
        self._service = service
        self._status = status
        self._commands: dict[str, Command] = {
            "ping": self._ping,
            "status": self._report,
            "log-level": self._log_level,
        }

    def add(self, name: str, command: Command) -> None:
        """Makes ``name`` a command of this worker."""
        self._commands[name] = command

    async def handle(self, broker: BrokerSession, message: Incoming) -> None:
        """Carries out the order in ``message`` and answers it on its response topic, if it names one."""
        answer = await self.answer(message)
        if message.response_topic:
            try:
                await broker.publish(message.response_topic, encode(answer), correlation=message.correlation)
            except (NotConnected, PublishRefused) as error:
                log.warning("answer to %s could not be sent: %s", answer.command, error)

    async def answer(self, message: Incoming) -> ControlAnswer:
        """What became of the order in ``message``."""
        # The broker sets this property itself and removes what a client wrote there.
        sender = dict(message.user_properties).get("sender", "unknown")
        try:
            order = decode(message.payload, ControlCommand)
        except Undecodable as error:
            log.warning("control message from %s refused: %s", sender, error)
            return self._refusal("", f'must be JSON such as {{"command": "ping"}}: {error}')
        answer = await self._carry_out(order, sender)
        if not answer.ok:
            # Not everybody asks for the answer, or is there to read it.
            log.warning("command %.100r from %s refused: %.500r", order.command, sender, answer.message)
        return answer

    async def _carry_out(self, order: ControlCommand, sender: str) -> ControlAnswer:
        log.info("command %.100r from %s", order.command, sender)
        command = self._commands.get(order.command)
        if command is None:
            return self._refusal(order.command, f"unknown command; known are {', '.join(sorted(self._commands))}")
        try:
            details = await command(order)
        except CommandRefused as error:
            return self._refusal(order.command, str(error))
        except Exception:
            log.exception("command %r failed", order.command)
            return self._refusal(order.command, "failed; the worker's log says why")
        return ControlAnswer(ok=True, service=self._service, command=order.command, details=dict(details))

    def _refusal(self, command: str, why: str) -> ControlAnswer:
        return ControlAnswer(ok=False, service=self._service, command=command, message=why)

    async def _ping(self, order: ControlCommand) -> Mapping[str, Any]:
        # Which of several workers of a kind is the one that answers?
        return {name: value for name, value in self._status().items() if name == "client_id"}

    async def _report(self, order: ControlCommand) -> Mapping[str, Any]:
        return self._status()

    async def _log_level(self, order: ControlCommand) -> Mapping[str, Any]:
        if order.level is None:
            raise CommandRefused("log-level needs a level: debug, info, warning or error")
        set_level(order.level)
        return {"level": order.level}

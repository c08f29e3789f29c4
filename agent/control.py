"""What an operator may have an agent do, beside what every worker can: recheck, pause, resume, reload."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from runtime.control import Control
from runtime.mqtt.session import BrokerSession, Incoming
from schema.messages import ControlCommand, Status

log = logging.getLogger(__name__)


class ControlCommands:
    """The control messages to one agent. :meth:`run` it as a task.

    Args:
        recheck: checks the local clock now.
        on_change: called when :attr:`paused` has changed.
        reload: has ``state.json`` read again;
            raises :class:`runtime.control.CommandRefused`.
    """

    def __init__(
        self,
        name: str,
        status: Callable[[], Status],
        recheck: Callable[[], None],
        on_change: Callable[[], None],
        reload: Callable[[], None],
    ) -> None:
        self.paused = False
        """Until an operator resumes, or the process ends."""
        self._recheck = recheck
        self._wake_all = on_change
        self._reload = reload
        self._waiting: asyncio.Queue[Incoming] = asyncio.Queue(maxsize=16)
        self._control = Control(name, lambda: msgspec.to_builtins(status()))
        self._control.add("recheck", self._recheck_command)
        self._control.add("pause", self._pause_command)
        self._control.add("resume", self._resume_command)
        self._control.add("reload", self._reload_command)

    def on_message(self, message: Incoming) -> None:
        """A control message has arrived."""
        if message.retain:  # an command is for now, not for whoever comes later
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("control message dropped: too many at once")

    async def run(self, session: BrokerSession) -> NoReturn:
        """Carries out and answers one command after the other."""
        while True:
            message = await self._waiting.get()
            try:
                await self._control.handle(session, message)
            except Exception:
                # For instance a response topic that is none: one sender's mistake must not end the agent.
                log.exception("control message could not be handled")

    async def _recheck_command(self, command: ControlCommand) -> Mapping[str, Any]:
        self._recheck()
        return {}

    async def _pause_command(self, command: ControlCommand) -> Mapping[str, Any]:
        return self._pause(True)

    async def _resume_command(self, command: ControlCommand) -> Mapping[str, Any]:
        return self._pause(False)

    def _pause(self, paused: bool) -> Mapping[str, Any]:
        self.paused = paused
        self._wake_all()
        return {"paused": paused}

    async def _reload_command(self, command: ControlCommand) -> Mapping[str, Any]:
        self._reload()
        return {}

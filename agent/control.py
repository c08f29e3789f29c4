"""Handle the agent's own control commands, in addition to those of every process: recheck, pause, resume, reload."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from runtime.control import Control
from runtime.mqtt.session import BrokerSession, Incoming
from schema.messages import ControlCommand, Status

log = logging.getLogger(__name__)


class Pause(msgspec.Struct):
    """Whether an operator has paused the agent: until it is resumed, or the process ends, whatever else changes."""

    on: bool = False


class ControlCommands:
    """Handle the control commands to one agent. Run :meth:`run` as a task.

    Args:
        recheck: called to check the local clock now.
        on_change: called when :attr:`paused` has changed.
        reload: called to read ``state.json`` again;
            raises :class:`runtime.control.CommandRefused`.
        pause: outlives this object; default: a new one.
    """

    def __init__(
        self,
        name: str,
        status: Callable[[], Status],
        recheck: Callable[[], None],
        on_change: Callable[[], None],
        reload: Callable[[], None],
        pause: Pause | None = None,
    ) -> None:
        self._pause = Pause() if pause is None else pause
        self._recheck = recheck
        self._wake_all = on_change
        self._reload = reload
        self._waiting: asyncio.Queue[Incoming] = asyncio.Queue(maxsize=16)
        self._control = Control(name, lambda: msgspec.to_builtins(status()))
        self._control.add("recheck", self._recheck_command)
        self._control.add("pause", self._pause_command)
        self._control.add("resume", self._resume_command)
        self._control.add("reload", self._reload_command)

    @property
    def paused(self) -> bool:
        """Return whether an operator has paused the agent."""
        return self._pause.on

    def on_message(self, message: Incoming) -> None:
        """Enqueue a control message."""
        if message.retain:  # a command applies only now; one that is retained is a mistake
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("control message dropped: too many at once")

    async def run(self, session: BrokerSession) -> NoReturn:
        """Execute and answer one command after another."""
        while True:
            message = await self._waiting.get()
            try:
                await self._control.handle(session, message)
            except Exception:
                # For instance an invalid response topic: one sender's mistake must not end the agent.
                log.exception("control message could not be handled")

    async def _recheck_command(self, command: ControlCommand) -> Mapping[str, Any]:
        self._recheck()
        return {}

    async def _pause_command(self, command: ControlCommand) -> Mapping[str, Any]:
        return self._set_paused(paused=True)

    async def _resume_command(self, command: ControlCommand) -> Mapping[str, Any]:
        return self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> Mapping[str, Any]:
        self._pause.on = paused
        self._wake_all()
        return {"paused": paused}

    async def _reload_command(self, command: ControlCommand) -> Mapping[str, Any]:
        self._reload()
        return {}

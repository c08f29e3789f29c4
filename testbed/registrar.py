"""Register the agents of a system as hosts do, with ``ntppool-agent setup``, and approve them as an operator would."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from agent.state import StateFile
from auth.api_keys import Peppers, derive_pepper
from auth.registration.model import Confirmed, Confirmer, Shown
from auth.registration.store import Registrations
from runtime.db.engine import transaction
from schema.tables import monitors
from testbed.process import Command
from testbed.site import Site, setup_command
from testbed.stack import CannotRun
from testbed.world import DOMAIN, ENV, Monitor, World

_OPERATOR: Final = Confirmer("operator of the demo", operator=True)
_LOOK_EVERY: Final = 0.1
_WITHIN: Final = 60.0
"""Seconds for one host, from the start of ``setup`` until it has its key."""


class Registrar:
    """The hosts of all monitors, and the operator who approves them."""

    def __init__(self, site: Site, world: World, engine: Engine) -> None:
        self._site = site
        self._world = world
        self._engine = engine
        peppers = Peppers(derive_pepper(site.key.verification_text()))
        self._registrations = Registrations(engine, ENV, DOMAIN, peppers)
        self._by_address: Mapping[str, Monitor] = {monitor.ip: monitor for monitor in world.monitors}

    async def register_all(self) -> None:
        """Register every monitor; return when each has its API key.

        Raises:
            CannotRun: a registration fails; the message names the log.
        """
        places = asyncio.Semaphore(2 * (os.cpu_count() or 1))

        async def register(monitor: Monitor) -> None:
            async with places:
                await self._register(monitor)

        async def register_each() -> None:
            async with asyncio.TaskGroup() as tasks:
                for monitor in self._world.monitors:
                    tasks.create_task(register(monitor))

        approving, registering = asyncio.create_task(self._approve()), asyncio.create_task(register_each())
        try:
            # Whichever fails first ends both.
            await asyncio.wait({approving, registering}, return_when=asyncio.FIRST_COMPLETED)
            if approving.done():
                approving.result()
            await registering
        except* CannotRun as group:
            raise _first(group) from None
        finally:
            for task in (approving, registering):
                task.cancel()
            await asyncio.wait({approving, registering})

    async def _register(self, monitor: Monitor) -> None:
        directory = self._site.agent_directory(monitor)
        directory.prepare()
        # The servers of this system have loopback addresses.
        directory.write_file(StateFile(allow_private_targets=True))
        await _run(setup_command(self._site, monitor))

    async def _approve(self) -> None:
        while True:
            await asyncio.to_thread(self._approve_waiting)
            await asyncio.sleep(_LOOK_EVERY)

    def _approve_waiting(self) -> None:
        now = datetime.now(UTC)
        for shown in self._registrations.listed(now, status="pending"):
            monitor = self._by_address[shown.ip4]
            self._approve_one(shown, monitor, now)

    def _approve_one(self, shown: Shown, monitor: Monitor, now: datetime) -> None:
        done = self._registrations.confirm(
            shown.verification_token,
            account_id=shown.account_id or 0,
            location=monitor.location,
            by=_OPERATOR,
            now=now,
        )
        if not isinstance(done, Confirmed) or done.name != monitor.name:
            raise CannotRun(f"registration of {monitor.name}: {done}")
        transaction(self._engine, lambda connection: _activate(connection, monitor.name))


def _first(group: BaseExceptionGroup[CannotRun]) -> CannotRun:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _activate(connection: Connection, name: str) -> None:
    """Let the monitor measure at once; an operator would watch it for a while first."""
    connection.execute(sa.update(monitors).where(monitors.c.tls_name == name).values(status="active"))


async def _run(command: Command) -> None:
    """Run a command to its end.

    Raises:
        CannotRun: it fails, or takes too long.
    """
    with command.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            env=command.env,
            cwd=command.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            async with asyncio.timeout(_WITHIN):
                code = await process.wait()
        except TimeoutError:
            raise CannotRun(f"{command.name} did not end within {_WITHIN:g} s; see {command.log}") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    if code != 0:
        raise CannotRun(f"{command.name} failed with exit code {code}; see {command.log}")

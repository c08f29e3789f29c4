"""Inject identity faults: tokens that expire, keys that change, and two agents with one name."""

import asyncio
import secrets
from datetime import timedelta
from typing import Final

from agent.state import write_token
from auth.tokens import Role, load_key, sign
from bench.faults.plan import LINKS, Planned
from bench.faults.rig import BROKER, WORKERS, Rig
from testbed.site import write_private
from testbed.spools import is_empty
from testbed.world import ENV

_SHORT_TOKEN: Final = timedelta(seconds=10)


class ExpiredToken:
    """An agent's token expires while it is connected, and the API cannot be reached for a while."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target, LINKS[0], LINKS[3]})

    async def begin(self) -> None:
        monitor = self._rig.monitors[self._name]
        api = self._rig.links[LINKS[3]]
        api.refuse()
        await api.cut()
        token = sign(self._rig.fault_site.key, Role.MONITOR, monitor.name, ENV, lifetime=_SHORT_TOKEN)
        write_token(self._rig.fault_site.state(monitor), token)
        await self._rig.links[LINKS[0]].cut()  # so that it reconnects with this one

    async def end(self) -> None:
        await self._rig.links[LINKS[3]].accept()


class Rotation:
    """A new key, with the previous one accepted until the next rotation; processes that sign with it are restarted, as
    operators do. Agents get tokens signed with it when their former ones are due."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig = rig
        self.touches = frozenset({*WORKERS, BROKER})

    async def begin(self) -> None:
        site = self._rig.fault_site
        former = site.key.verification_text()
        secret = secrets.token_urlsafe(48)
        site.key = load_key(secret)
        self._rig.site.broker.set_keys(site.key.verification_text(), former)
        await self._rig.reload_broker()
        replacement = site.key_file.with_suffix(".new")
        write_private(replacement, secret + "\n")
        replacement.replace(site.key_file)
        for name in WORKERS:
            await self._rig.stop(name)
            await self._rig.start_again(name)

    async def end(self) -> None:
        """Leave it: the previous key must be accepted for as long as tokens are signed with it."""


class Duplicate:
    """A second agent with the same identity, on another host: both want the session."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self._copy = f"{planned.target} copy"
        self.touches = frozenset({planned.target, self._copy})

    async def begin(self) -> None:
        monitor = self._rig.monitors[self._name]
        await asyncio.to_thread(self._rig.fault_site.copy_identity, monitor)
        await self._rig.supervisor.start(self._rig.fault_site.agent(monitor, copy=True))

    async def end(self) -> None:
        """Remove the copy, after it has delivered its results alone, as an operator who moves an agent would do it."""
        await self._rig.stop(self._copy)
        state = self._rig.fault_site.state(self._rig.monitors[self._name], copy=True)
        if is_empty(state):
            return
        await self._rig.stop(self._name)
        while not is_empty(state):
            await self._rig.start_again(self._copy)
            await self._deliver()
            await self._rig.stop(self._copy)
        await self._rig.start_again(self._name)

    async def _deliver(self) -> None:
        """Wait until the copy has sent its results, or has tried for a while."""
        monitor = self._rig.monitors[self._name]
        state = self._rig.fault_site.state(monitor, copy=True)
        quiet = 0
        for _ in range(120):
            paused = await self._rig.operator.agent(monitor.name, "pause")
            quiet = quiet + 1 if paused and is_empty(state) else 0
            if quiet > 6:  # longer than the agent collects results for a batch
                return
            await asyncio.sleep(0.25)

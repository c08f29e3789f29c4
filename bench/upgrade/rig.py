"""Run a pool of which each process is of the former release or of this checkout."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from agent.state import StateFile
from agent.version import VERSION as VERSION_HERE
from auth.tokens import Role, token_source
from runtime.db.retry import DatabaseUnavailable
from testbed import former_release
from testbed.broker import BrokerParts, LocalBroker
from testbed.checker.replay import BatchKey
from testbed.demo.ledger import monitor_ids, results_by_monitor
from testbed.demo.witness import Witness
from testbed.former_release import FormerRelease
from testbed.load.generator import READY
from testbed.load.spec import LoadSpec, Member, Shares, write_spec
from testbed.operator import Operator
from testbed.process import Command, last_lines
from testbed.site import (
    API,
    API_READY,
    BROKER,
    FLEET_READY,
    Site,
    agent_command,
    agent_name,
    api_command,
    fleet_command,
    make_command,
    python_command,
    setup_command,
    worker_command,
)
from testbed.spools import is_empty, read_spools
from testbed.stack import CannotRun, Stack
from testbed.world import ENV, Monitor, World

Release = Literal["former", "new"]
VERSIONS: Final[dict[Release, str]] = {"former": former_release.VERSION, "new": VERSION_HERE}

INGEST: Final = "ingest"
LOAD: Final = "load"
_FILL: Final = Path(__file__).with_name("fill_former.py")
_OPERATOR: Final = "upgrade"
_CONNECTED: Final = "connected to"
_NEW_RESULTS: Final = 3
"""Results of a monitor that show that its results reach the ledger."""

_COMMAND_WITHIN: Final = 90.0
"""Seconds for a command that ends by itself."""

_SHARES: Final = Shares(late=0.03, duplicate=0.05)
"""Without faulty batches: every result must be stored."""


class Rig(Stack):
    """Broker, simulated NTP servers, workers, agents and load; a ledger that begins empty."""

    start_within_seconds = 60.0

    def __init__(self, site: Site, world: World, former: FormerRelease, load_names: list[str]) -> None:
        super().__init__(site)
        self.world = world
        self.former = former
        self.record = site.directory / "load.jsonl"
        token = token_source(site.key, Role.SERVER, _OPERATOR, ENV)
        self.operator = Operator(site.broker_address, _OPERATOR, token, ENV)
        self.witness = Witness(site.broker_address, site.key, ENV)
        self._load_names = load_names
        self._release: dict[str, Release] = {}

    # ---- commands --------------------------------------------------------------------------------------------------

    def of(self, command: Command, release: Release) -> Command:
        """Return a command with the code of a release."""
        return self.former.command(command) if release == "former" else command

    async def run(self, command: Command) -> tuple[int, str]:
        """Run a command to its end; return its exit code and its output.

        Raises:
            CannotRun: it does not end.
        """
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            env=command.env,
            cwd=command.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_COMMAND_WITHIN):
                output, _ = await process.communicate()
        except TimeoutError:
            raise CannotRun(f"{command.name} did not end within {_COMMAND_WITHIN:g} s") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, output.decode(errors="replace")

    async def operate(self, release: Release, *arguments: str) -> str:
        """Run ``ntppool-monitor`` with these arguments; return its output.

        Raises:
            CannotRun: it fails.
        """
        command = python_command(self.site, "operator", "ops", *arguments, settings=self.site.settings())
        code, output = await self.run(self.of(command, release))
        if code != 0:
            raise CannotRun(f"{release} ntppool-monitor {' '.join(arguments)}: exit code {code}: {output.strip()}")
        return output

    def worker(self, name: str, release: Release) -> Command:
        """Return the command of a worker, or of the API."""
        return self.of(api_command(self.site) if name == API else worker_command(self.site, name), release)

    # ---- processes -------------------------------------------------------------------------------------------------

    async def start_pool(self, workers: list[str], former_broker: BrokerParts | None) -> None:
        """Start a pool of the former release, without monitors.

        Args:
            former_broker: the former release's plugin and configuration; None: those of this checkout.

        Raises:
            CannotRun: a process does not become ready.
        """
        if former_broker is not None:
            self._use(former_broker)
        await self.start_broker()  # writes files that the settings name
        await self.operate("former", "db", "upgrade")
        await self._fill()
        await self.start_process(fleet_command(self.site, self.world.fleet), FLEET_READY)
        for session in (self.operator.session, self.witness.session):
            await self.connect(session)
        for name in workers:
            await self.start_worker(name, "former")

    async def _fill(self) -> None:
        port = self.world.servers[0].port
        # The world has at least one agent, which need not register.
        counts = [str(number) for number in (len(self.world.monitors) or 1, len(self.world.servers), port)]
        argv = [sys.executable, "-P", str(_FILL), *counts, *self._load_names]
        code, output = await self.run(self.of(make_command(self.site, "fill", argv, self.site.settings()), "former"))
        if code != 0:
            raise CannotRun(f"the former ledger cannot be filled:\n{output}")

    async def start_worker(self, name: str, release: Release) -> None:
        """Start a worker of a release, in place of a stopped one.

        Raises:
            CannotRun: it does not become ready, or runs other code.
        """
        log = self.site.log_of(name)
        before = log.stat().st_size if log.exists() else 0
        await self.start_process(self.worker(name, release), API_READY if name == API else _CONNECTED)
        self._release[name] = release
        if f" {VERSIONS[release]} starts for " not in log.read_bytes()[before:].decode(errors="replace"):
            raise CannotRun(f"{name} does not run the {release} code; see {log}")

    async def replace_worker(self, name: str) -> None:
        """Stop a worker in order, and start the new one. Raises as :meth:`stop` and :meth:`start_worker`."""
        await self.stop(name)
        await self.start_worker(name, "new")

    async def replace_broker(self, parts: BrokerParts) -> None:
        """Stop the broker in order, which saves its state, and start it with these parts. Raises as :meth:`stop`."""
        await self.stop(BROKER)
        self._use(parts)
        await self.start_broker()
        await self.until(lambda: self.operator.session.connected, "a session with the new broker")

    def _use(self, parts: BrokerParts) -> None:
        broker = self.site.broker
        assert isinstance(broker, LocalBroker), "an upgrade runs with Mosquitto"
        broker.parts = parts

    async def start_agent(self, monitor: Monitor, release: Release) -> None:
        """Start an agent of a release, in place of a stopped one."""
        await self.supervisor.start(self.of(agent_command(self.site, monitor), release))

    async def stop(self, name: str) -> None:
        """Stop a process in order.

        Raises:
            CannotRun: it does not end in order.
        """
        if await self.supervisor.stop([name]):
            raise CannotRun(f"{name} did not end after SIGTERM; see {self.site.log_of(name)}")

    async def start_load(self) -> None:
        """Start the load: monitors of the former release that measure what they are assigned."""
        address = self.site.broker_address
        spec = LoadSpec(
            env=ENV,
            host=address.host,
            port=address.port,
            key_file=self.site.directory / "jwt.key",
            record=self.record,
            members=[Member(name=name) for name in self._load_names],
            listen=True,
            shares=_SHARES,
            ack_timeout=3.0,
        )
        path = self.site.directory / "load.json"
        write_spec(path, spec)
        await self.start_process(self.of(python_command(self.site, LOAD, "testbed.load", str(path)), "former"), READY)

    async def end_load(self) -> None:
        """End the load once all of it is acknowledged.

        Raises:
            CannotRun: not all of it was.
        """
        pid = self.supervisor.pid(LOAD)
        assert pid is not None
        ended = asyncio.create_task(self.supervisor.wait(LOAD))
        await asyncio.sleep(0)  # from now on, its end is expected
        os.kill(pid, signal.SIGTERM)
        if await ended != 0:
            raise CannotRun(f"not all batches of the load were acknowledged:\n{last_lines(self.site.log_of(LOAD))}")

    async def register(self, monitor: Monitor) -> None:
        """Register a host by the former release's ``setup``, and approve it by its operators' commands.

        Raises:
            CannotRun: this fails.
        """
        directory = self.site.agent_directory(monitor)
        directory.prepare()
        directory.write_file(StateFile(allow_private_targets=True))  # the servers have loopback addresses
        setting_up = asyncio.create_task(self.run(self.of(setup_command(self.site, monitor), "former")))
        waiting: list[str] = []

        async def asks() -> bool:
            waiting[:] = await self._pending()
            return bool(waiting) or setting_up.done()

        await self.until(asks, f"a registration of {monitor.name}")
        for number in waiting:
            await self.operate("former", "registrations", "approve", number, "--location", monitor.location)
        code, output = await setting_up
        if code != 0:
            raise CannotRun(f"setup of {monitor.name}: exit code {code}:\n{output}")
        await self.operate("former", "monitors", "approve", f"{monitor.name}/v4")

    async def _pending(self) -> list[str]:
        output = await self.operate("former", "registrations", "list", "--status", "pending", "--json")
        return [str(row["id"]) for row in json.loads(output.splitlines()[-1])]

    # ---- results ---------------------------------------------------------------------------------------------------

    @property
    def monitor_names(self) -> list[str]:
        """All monitors: the agents and those of the load."""
        return [*(monitor.name for monitor in self.world.monitors), *self._load_names]

    async def flows(self, when: str) -> None:
        """Wait until new results of every monitor are in the ledger.

        Raises:
            CannotRun: this does not happen, or a process has died.
        """
        before = await self._results()

        async def more() -> bool:
            now = await self._results()
            return all(now.get(name, 0) >= before.get(name, 0) + _NEW_RESULTS for name in self.monitor_names)

        await self.until(more, f"results of all monitors, {when},")

    async def _results(self) -> dict[str, int]:
        try:
            return dict(await self.read(results_by_monitor))
        except DatabaseUnavailable:
            return {}

    async def switch_agent(self, monitor: Monitor, release: Release) -> set[BatchKey]:
        """Replace an agent while batches wait in its spool; return these batches once the spool is empty.

        Raises:
            CannotRun: the other release's agent does not take over state and spool.
        """
        directory = self.site.agent_directory(monitor)
        await self.stop(INGEST)
        await self.until(lambda: not is_empty(directory), f"a batch in the spool of {monitor.name}")
        await self.stop(agent_name(monitor))
        waiting = await self._waiting(monitor)
        await self.start_agent(monitor, release)
        await self.start_worker(INGEST, self._release[INGEST])
        await self.until(lambda: is_empty(directory), f"delivery of the spool of {monitor.name}")
        await self.flows(f"with the {release} agent of {monitor.name}")
        return waiting

    async def _waiting(self, monitor: Monitor) -> set[BatchKey]:
        """Return the batches in a stopped agent's spool, from a copy: the next agent must find what this one left."""
        ids = await self.read(monitor_ids)
        directory = self.site.agent_directory(monitor)
        with tempfile.TemporaryDirectory(dir=self.site.directory) as copy:
            shutil.copytree(directory.path, Path(copy) / ENV)
            there = type(directory)(Path(copy), ENV)
            return set(read_spools({ids[monitor.name]: there}).waiting)

    def agent_versions(self) -> dict[str, set[str]]:
        """Return the versions that sent batches, by agent."""
        names = {monitor.name for monitor in self.world.monitors}
        found: dict[str, set[str]] = {name: set() for name in names}
        for seen in self.witness.seen:
            if seen.monitor in names:
                found[seen.monitor].add(seen.version)
        return found

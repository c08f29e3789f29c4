"""Run the demo, from its first process to its last line of output."""

import asyncio
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy.engine import URL, Connection

from runtime.db.retry import DatabaseUnavailable
from testbed.broker import BrokerUnavailable
from testbed.checker import ledger as checked
from testbed.database import DatabaseFailed, running
from testbed.demo.accounting import Evidence, settle
from testbed.demo.directory import demo_directory, remove
from testbed.demo.findings import Findings
from testbed.demo.ledger import State, Watcher
from testbed.demo.options import Options, check_apart
from testbed.demo.summary import End, Summary, summarize
from testbed.demo.system import Stopped, System
from testbed.demo.table import Display
from testbed.demo.verdict import in_words
from testbed.process import last_lines
from testbed.site import WORKERS, Site, free_ntp_port, make_site
from testbed.stack import CannotRun
from testbed.world import World, make_world

_LOOK_EVERY: Final = 1.0
"""Seconds between two reads of the ledger."""

_RECENT_ROWS: Final = 50_000
"""Number of log rows that explain why servers are not handed out: a hundred per server in the largest demo."""

_WARNINGS_WITHIN: Final = 50
"""Last lines of a worker's log."""


def run_demo(options: Options) -> int:
    """Run the demo; return the exit code.

    Raises:
        CannotRun: it cannot be started.
        OptionError: the options do not fit together.
    """
    world = _world(options)
    with demo_directory(options.directory) as directory:
        try:
            with _database(options, directory) as database:
                site = make_site(
                    directory,
                    database,
                    broker=options.broker,
                    tls=options.tls,
                    ipv6=options.ipv6,
                    registering=True,
                    web=True,
                )
                summary = asyncio.run(Demo(site, world, options.seconds).run())
        except BaseException as error:
            _leave(directory, temporary=options.directory is None, good=False)
            if isinstance(error, OSError | BrokerUnavailable | DatabaseFailed):
                raise CannotRun(str(error)) from None
            raise
        good = summary is not None and summary.good
        _leave(directory, temporary=options.directory is None, good=good)
    if summary is not None:
        _tell(summary, as_json=options.as_json or not sys.stdout.isatty())
    return 0 if good else 1


def _tell(summary: Summary, *, as_json: bool) -> None:
    """Print the verdict in words on stderr, or as JSON, the only line on stdout, for programs."""
    out = sys.stderr if as_json else sys.stdout
    out.write(f"\n{in_words(summary)}")
    out.flush()
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")


@contextmanager
def _database(options: Options, directory: Path) -> Iterator[URL | None]:
    """Yield the ledger's URL if it is not SQLite, and run the demo's own database server meanwhile."""
    if options.server is None:
        yield options.database
        return
    path = directory / "database"
    path.mkdir(mode=0o700)
    with running(options.server(path, buffer_pool="64M")) as server:
        yield server.create("demo")


def _leave(directory: Path, *, temporary: bool, good: bool) -> None:
    """Remove a temporary directory, unless its logs may explain a failure."""
    logs = [*(directory / "logs").glob("*"), directory / "database" / "log"]
    if not good and any(log.is_file() and log.stat().st_size for log in logs):
        sys.stderr.write(f"demo: the logs of all processes are in\n  {directory}\n")
    elif temporary:
        remove(directory)


def _findings(connection: Connection) -> Findings:
    after = max(0, checked.last_log_id(connection) - _RECENT_ROWS)
    return Findings().all(checked.log_rows(connection, after=after))


def _world(options: Options) -> World:
    """Make the world on a free port."""
    draft = make_world(options.agents, options.servers, 1, options.ntp)
    check_apart(draft)
    try:
        port = free_ntp_port([spec.address for spec in draft.fleet])
    except OSError as error:
        raise CannotRun(str(error)) from None
    return make_world(options.agents, options.servers, port, options.ntp)


class Demo:
    """One run."""

    def __init__(self, site: Site, world: World, seconds: float | None) -> None:
        self._site = site
        self._world = world
        self._seconds = seconds
        self._stopping = asyncio.Event()
        self._began = time.monotonic()
        self._watcher = Watcher()

    async def run(self) -> Summary | None:
        """Return the summary; None if the demo was stopped before it was running."""
        with Display(self._world, self._seconds) as display:
            async with System(self._site, self._world, self._stopping) as system:
                with self._on_signals(system):
                    return await self._run(system, display)

    async def _run(self, system: System, display: Display) -> Summary | None:
        display.say(f"starting in {self._site.directory}; Ctrl-C stops it")
        for what in self._site.broker.lacks:
            display.say(f"this broker is not the pool's: {what}")
        try:
            await system.start()
        except Stopped:
            display.say("stopped before all processes were running")
            return None
        self._began = time.monotonic()
        display.begin()
        display.say("the servers as the public sees them:")
        display.show_line(f"  {self._site.web_url}")
        display.say("running; to inspect it, paste this line into another terminal:")
        display.show_line(f"  sh {shlex.quote(str(self._site.looking))} servers list")
        await self._watch(system, display)
        seconds = time.monotonic() - self._began
        for death in system.supervisor.deaths:
            display.say(str(death))
        rested = None if system.supervisor.deaths else await self._come_to_rest(system, display)
        await system.stop()
        state, evidence, findings = await self._read_end(system)
        display.finish(state)
        end = End(seconds, tuple(system.supervisor.deaths), tuple(system.hung), rested)
        summary = summarize(self._world, state, evidence.replay, settle(evidence), findings, end)
        if summary.waiting or not summary.committed:
            self._show_warnings(display)
        return summary

    async def _come_to_rest(self, system: System, display: Display) -> bool:
        display.say("stopping: the agents pause and send their remaining results; Ctrl-C stops immediately")
        on_the_way = await system.come_to_rest()
        for what in on_the_way:
            display.say(f"still outstanding at the time limit: {what}")
        return not on_the_way

    def _show_warnings(self, display: Display) -> None:
        """Show each worker's last warning or error, the most likely reason why results do not arrive."""
        for name in WORKERS:
            lines = last_lines(self._site.log_of(name), _WARNINGS_WITHIN).splitlines()
            warnings = [line for line in lines if " WARNING " in line or " ERROR " in line]
            if warnings:
                display.say(f"{name}: {warnings[-1]}")

    async def _watch(self, system: System, display: Display) -> None:
        """Show the state until the time is over, the demo is stopped, or a process dies."""
        while not self._is_over(system):
            try:
                display.show(await system.read(self._watcher.look))
            except DatabaseUnavailable as error:
                display.say(f"database: {error}")
            await self._pause(system)

    def _is_over(self, system: System) -> bool:
        late = self._seconds is not None and time.monotonic() - self._began >= self._seconds
        return late or self._stopping.is_set() or system.supervisor.died.is_set()

    async def _pause(self, system: System) -> None:
        left = _LOOK_EVERY
        if self._seconds is not None:
            left = min(left, max(0.0, self._began + self._seconds - time.monotonic()))
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, system.supervisor.died)]
        await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _read_end(self, system: System) -> tuple[State, Evidence, Findings]:
        try:
            state, evidence = await system.read(self._watcher.look), await system.evidence()
            return state, evidence, await system.read(_findings)
        except DatabaseUnavailable as error:
            raise CannotRun(f"database: {error}; no summary") from None

    @contextmanager
    def _on_signals(self, system: System) -> Iterator[None]:
        """Stop the demo in order at the first signal, immediately at the second."""
        loop = asyncio.get_running_loop()

        def take() -> None:
            if self._stopping.is_set():
                system.supervisor.kill_all()
            self._stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, take)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

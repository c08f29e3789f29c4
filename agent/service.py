"""Run the daemon: one agent after another as ``state.json`` changes, until a signal ends it."""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.app import Agent
from agent.daemon_settings import DaemonSettings
from agent.hints import command
from agent.login import Login
from agent.ntp.udp import stamping
from agent.oneshot import check_clock_once, probe_once
from agent.pipeline import Lasting, keep
from agent.renewals import Renewals
from agent.replacement import finish_replacement
from agent.state import Lock, NotSetUp, State, StateDirectory, StateError, StateUnavailable
from agent.status import REPORT_EVERY, summary, waiting_report
from agent.status_file import write_report
from agent.systemd import show_status
from runtime.log import OngoingWarning, set_up_logging

log = logging.getLogger(__name__)

CHECK_FILES_EVERY: Final = 1.0
"""Seconds between two checks of the files in the state directory. Polling costs less than being notified."""

SETTLE: Final = 0.5
"""Seconds to wait after a change, in case more files are being replaced."""

EXIT_ERROR: Final = 1
EXIT_CONFIGURATION: Final = 2


def run(settings: DaemonSettings) -> int:
    """Run until SIGTERM or SIGINT, or as long as the settings require; return the exit status."""
    set_up_logging(settings.log_level)
    directory = StateDirectory(Path(settings.state_base), settings.env)
    try:
        with stamping():
            return _run(settings, directory)
    except StateError as error:
        log.error("%s", error)
        return EXIT_ERROR if isinstance(error, StateUnavailable) else EXIT_CONFIGURATION
    except (BaseExceptionGroup, Exception) as error:
        log.error("failed with an unexpected error", exc_info=error)
        return EXIT_ERROR


def _run(settings: DaemonSettings, directory: StateDirectory) -> int:
    if settings.sanity_only:
        return asyncio.run(check_clock_once(settings, directory))
    directory.prepare()
    with Lock(directory):
        if settings.once:
            return asyncio.run(probe_once(settings, directory))
        return asyncio.run(_serve(settings, directory))


async def _serve(settings: DaemonSettings, directory: StateDirectory) -> int:
    finish_replacement(directory)
    login = first_login(directory)
    service = Service(settings, directory, login, keep(settings, directory))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    gc.collect()
    gc.freeze()  # imported modules stay: later collections can skip them
    await service.run()
    return 0


_UNANSWERED: Final = "the API has yet to give this monitor a token"


def first_login(directory: StateDirectory) -> Login | str:
    """Return the login, or what is missing for it because this monitor is not, or not completely, set up.

    Raises:
        StateError: ``state.json`` is invalid.
    """
    has_api = directory.read_file().api is not None
    try:
        login = Login(directory, directory.read_state())
    except NotSetUp as error:
        return _UNANSWERED if has_api else f"{error}; run {command(directory, 'setup')} as root"
    if has_api:  # it gives the token; otherwise somebody else does, and the agent reports what is wrong with it
        try:
            directory.read_token()
        except NotSetUp:
            return _UNANSWERED
        except StateError as error:
            return str(error)
    return login


class Service:
    """Run an agent, and replace it when the files with its identity and credentials have changed.

    Args:
        login: what to log in with, or what is missing for it; then the service waits first.
    """

    def __init__(
        self, settings: DaemonSettings, directory: StateDirectory, login: Login | str, lasting: Lasting
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._first = login
        self._lasting = lasting
        self._login: Login
        self._ends = asyncio.Event()
        self._stopping = False
        self._reload_now = asyncio.Event()
        self._agent: Agent | None = None
        self._warning = OngoingWarning(log)
        self._renewals = Renewals(directory, on_change=self._renewal_changed, local=settings.api_local)
        self._was_refused = self._renewals.refusal is not None

    def stop(self) -> None:
        """End the service cleanly."""
        self._stopping = True
        self._ends.set()

    def reload(self) -> None:
        """Read the files again now, and ask the API."""
        self._reload_now.set()
        self._renewals.ask_now()

    async def run(self) -> None:
        """Run until :meth:`stop`."""
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._renewals.run(), name="renewals")
            login = self._first if isinstance(self._first, Login) else await self._wait_for_setup(self._first)
            if login is not None:
                self._login = login
                watch = tasks.create_task(self._watch_files(), name="state")
                await self._run_agents()
                watch.cancel()
            renewing.cancel()

    async def _run_agents(self) -> None:
        while not self._stopping:
            login = self._login
            self._ends.clear()
            agent = Agent(
                self._settings,
                self._directory,
                login,
                self._lasting,
                on_reload=self.reload,
                why_not=lambda: self._renewals.refusal,
                trouble=lambda: None if self._renewals.away else self._renewals.trouble,
                on_refused=self._renewals.broker_refuses,
            )
            self._agent = agent
            await agent.run(self._ends, says_goodbye=self._says_goodbye(login.state))
            agent.report()
            self._agent = None
            del agent, login
            gc.collect()  # its parts refer to each other; the next agent takes their memory

    async def _wait_for_setup(self, missing: str) -> Login | None:
        """Wait until this monitor is set up; return ``None`` if the service is stopped before.

        Whoever sets it up writes files one by one, so files that are invalid meanwhile are waited for, too.
        """
        warning, reported = OngoingWarning(log, repeat_seconds=3600.0), 0.0
        before: str | None = None
        while not self._stopping:
            what = self._renewals.trouble or missing
            warning.warning("waiting, not probing: %s", what)
            if what != before or time.monotonic() - reported >= REPORT_EVERY:
                before, reported = what, time.monotonic()
                self._report_waiting(what)
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_FILES_EVERY):
                    await self._ends.wait()
            try:
                login = first_login(self._directory)
            except StateError as error:
                login = str(error)
            if isinstance(login, Login):
                log.info("set up as %s", login.state.name)
                return login
            missing = login
        return None

    def _report_waiting(self, what: str) -> None:
        made = waiting_report(self._settings, self._lasting.started, what)
        show_status(summary(made))
        try:
            write_report(self._directory, made)
        except OSError as error:
            self._warning.warning("%s: %s", self._directory.status_file, error.strerror or error)

    def _renewal_changed(self) -> None:
        wanted_again = self._was_refused and self._renewals.refusal is None
        self._was_refused = self._renewals.refusal is not None
        if self._agent is None:
            return
        self._agent.reconsider()
        if wanted_again and not self._agent.session.connected:
            self._ends.set()  # a new agent connects at once; this one waits for minutes

    def _says_goodbye(self, state: State) -> Callable[[], bool]:
        """Publish the offline status only if the service stops or the name changes, not on a reconnection."""
        return lambda: self._stopping or self._login.state.name != state.name

    async def _watch_files(self) -> None:
        seen = self._login.stamp
        while True:
            try:
                async with asyncio.timeout(CHECK_FILES_EVERY):
                    await self._reload_now.wait()
            except TimeoutError:
                # Files that could not be used are tried again: the cause may be outside of them.
                if self._login.stamp == seen and self._login.complete and not self._warning.lasting:
                    continue
            self._reload_now.clear()
            await asyncio.sleep(SETTLE)
            seen = self._login.stamp
            self._load_changed_files()

    def _load_changed_files(self) -> None:
        """Take up changed files: new certificates on the next connection, anything else in another agent."""
        certificates = self._login.tls.in_use
        try:
            login = self._login.renewed()
        except StateError as error:
            self._trouble(str(error))
            self._warning.warning("%s; continuing with the previous state", error)
            return
        self._trouble(None)
        self._warning.over()
        if login is not self._login:
            log.info("%s has changed", self._directory.path)
            self._login = login
            self._ends.set()
        elif login.tls.in_use != certificates:
            log.info("%s: there is a new certificate", self._directory.path)
            self._swap_connection()

    def _swap_connection(self) -> None:
        """Connect again with the new certificate. Spool and schedule stay as they are."""
        if self._agent is not None and self._agent.session.connected:
            self._agent.session.reconnect()
        else:
            self._ends.set()  # a new agent connects at once; this one may wait for minutes

    def _trouble(self, trouble: str | None) -> None:
        if trouble != self._login.trouble:
            self._login.trouble = trouble
            if self._agent is not None:
                self._agent.report_soon()

"""Have a child process renew token, certificate and configuration on time (:mod:`agent.renew`)."""

import asyncio
import contextlib
import logging
import random
import sys
from collections.abc import Callable
from typing import Final

from agent.renewal_file import Outcome, read_outcome
from agent.state import Api, StateDirectory, StateError
from runtime.log import OngoingWarning
from runtime.retry import Delays

log = logging.getLogger(__name__)

EVERY: Final = 300.0
"""Seconds between two renewals; also the longest time for a change on the pool's side to arrive."""

WAITING_EVERY: Final = 60.0
"""Seconds while the pool has yet to do something for this monitor."""

REFUSED_EVERY: Final = 600.0
"""Seconds while the key is refused or the monitor deleted."""

AFTER_FAILURE: Final = Delays(first_seconds=10.0, longest_seconds=900.0, jitter=0.5)
"""Delays while the API is away. They stay far below a third of a token's life."""

LONGEST_RUN: Final = 300.0
"""Seconds after which a child is killed."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for a new key."""


def pause_after(outcome: Outcome, failures: int) -> float:
    """Return the seconds until the next renewal.

    Args:
        failures: consecutive outcomes that were neither good nor a refusal.
    """
    if outcome.kind == "ok":
        return EVERY * random.uniform(0.9, 1.0)
    if outcome.kind == "refused":
        return REFUSED_EVERY * random.uniform(0.9, 1.0)
    if outcome.kind == "waiting":
        return WAITING_EVERY * random.uniform(0.9, 1.0)
    return AFTER_FAILURE.after(failures)


class Renewals:
    """Renew as long as :meth:`run` runs. Without a key, it waits for one.

    Args:
        on_change: called when :attr:`refusal` or :attr:`trouble` has changed.
    """

    def __init__(self, directory: StateDirectory, on_change: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self.on_change = on_change
        self.refusal: str | None = None
        """Why this monitor must not probe: its key is refused, or it is deleted."""
        self.trouble: str | None = None
        """What is wrong, or what the pool has yet to do."""
        self._failures = 0
        self._warning = OngoingWarning(log, repeat_seconds=3600.0)

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            api = self._api()
            if api is None:
                self._use(None)
                await asyncio.sleep(LOOK_EVERY)
                continue
            await self._run_child()
            outcome = read_outcome(self._directory)
            self._use(outcome)
            good = outcome is not None and outcome.kind in ("ok", "waiting", "refused")
            self._failures = 0 if good else self._failures + 1
            pause = AFTER_FAILURE.after(self._failures) if outcome is None else pause_after(outcome, self._failures)
            await self._wait(pause, api)

    async def _wait(self, seconds: float, api: Api) -> None:
        """Wait, but not if there is a new key."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._api() in (api, None):  # noqa: ASYNC110  # other processes write the file
                    await asyncio.sleep(LOOK_EVERY)

    def _api(self) -> Api | None:
        """Return the API and our key, if there is one that can be read."""
        try:
            return self._directory.read_file().api
        except StateError:
            return None  # the daemon reports it

    async def _run_child(self) -> None:
        isolated = ["-P"] if sys.flags.safe_path else []
        command = (*isolated, "-m", "agent.renew", str(self._directory.path.parent), self._directory.env)
        try:
            child = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            self._warning.warning("the renewal could not be started: %s", error.strerror or error)
            return
        try:
            async with asyncio.timeout(LONGEST_RUN):
                await child.wait()
        except TimeoutError:
            self._warning.warning("the renewal was ended after %g s", LONGEST_RUN)
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()

    def _use(self, outcome: Outcome | None) -> None:
        refusal = outcome.text if outcome is not None and outcome.kind == "refused" else None
        trouble = None if outcome is None else "; ".join(filter(None, (outcome.text, outcome.clock))) or None
        if trouble is None:
            self._warning.over()
        else:
            self._warning.warning("%s", trouble)
        if (refusal, trouble) != (self.refusal, self.trouble):
            self.refusal, self.trouble = refusal, trouble
            self.on_change()

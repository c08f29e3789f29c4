"""Have a child process renew token, certificate and configuration on time (:mod:`agent.renew`)."""

import asyncio
import contextlib
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.renewal_file import Outcome, read_outcome
from agent.state import Api, StateDirectory, StateError
from runtime.log import OngoingWarning
from runtime.mqtt.tls_files import file_stamp
from runtime.retry import Delays
from schema.names import IpVersion

log = logging.getLogger(__name__)

EVERY: Final = 300.0
"""Seconds between two renewals, unless something is due earlier; also the longest time for a change on the pool's side
to arrive."""

SOONEST: Final = 5.0
"""Least seconds between two renewals, whatever is due."""

WAITING_EVERY: Final = 60.0
"""Seconds while the pool has yet to do something for this monitor."""

REFUSED_EVERY: Final = 600.0
"""Seconds while the key is refused or the monitor deleted."""

AFTER_FAILURE: Final = Delays(first_seconds=10.0, longest_seconds=900.0, jitter=0.5)
"""Delays while the API is away."""

OF_LIFE: Final = 0.1
"""Longest such delay, as a share of the life of token or certificate: far below the third in which they are renewed."""

AGAIN_EVERY: Final = 600.0
"""Seconds after which the broker's next refusal makes us ask the API again."""

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
        regular = EVERY * random.uniform(0.9, 1.0)
        return regular if outcome.due_in is None else min(regular, max(SOONEST, outcome.due_in))
    if outcome.kind == "refused":
        return REFUSED_EVERY * random.uniform(0.9, 1.0)
    if outcome.kind == "waiting":
        return WAITING_EVERY * random.uniform(0.9, 1.0)
    delay = AFTER_FAILURE.after(failures)
    return delay if outcome.life is None else min(delay, max(SOONEST, OF_LIFE * outcome.life))


def refusal_after(outcome: Outcome | None, former: str | None) -> str | None:
    """Return why this monitor must not probe, if so.

    A refusal lasts until the API says otherwise: an API that is away, and a renewal that fails here, say nothing.

    Args:
        outcome: of the last renewal; ``None`` if this monitor has no API.
        former: the refusal until then.
    """
    if outcome is None or outcome.kind in ("ok", "waiting"):
        return None
    return outcome.text if outcome.kind == "refused" else former


class Renewals:
    """Renew as long as :meth:`run` runs. Without a key, it waits for one.

    Args:
        on_change: called when :attr:`refusal` or :attr:`trouble` has changed.
        local: addresses from which to contact the API.
    """

    def __init__(
        self,
        directory: StateDirectory,
        on_change: Callable[[], None] = lambda: None,
        local: Mapping[IpVersion, str] | None = None,
    ) -> None:
        self._directory = directory
        self.on_change = on_change
        self._local = ",".join((local or {}).values())
        last = read_outcome(directory)
        self.refusal: str | None = None if last is None else refusal_after(last, None)
        """Why this monitor must not probe: its key is refused, or it is deleted."""
        self.trouble: str | None = None
        """What is wrong, or what the pool has yet to do."""
        self._address = ""
        self.away = False
        """The API has given no answer. Costs nothing while token and certificate last, about which ``status`` knows."""
        self._failures = 0
        self._asked = False
        self._again = False
        """The broker refuses what we have."""
        self._again_from = -AGAIN_EVERY
        self._here: set[Path] = set()
        self._warning = OngoingWarning(log, repeat_seconds=3600.0)

    def ask_now(self) -> None:
        """Ask the API within a second, instead of at the next interval."""
        self._asked = True

    def broker_refuses(self) -> None:
        """Record that the broker refuses our token or certificate, and renew both soon.

        They may have been revoked, of which the API tells the reason, or gives others. At most once in ten minutes.
        """
        if time.monotonic() >= self._again_from:
            self._again = True

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            api = self._api()
            if api is None:
                self._without_key()
                await asyncio.sleep(LOOK_EVERY)
                continue
            outcome = await self._renew()
            self._use(outcome)
            self._failures = 0 if outcome.kind in ("ok", "waiting", "refused") else self._failures + 1
            await self._wait(pause_after(outcome, self._failures), api)

    async def _wait(self, seconds: float, api: Api) -> None:
        """Wait, but not if there is a new key, or a reason to ask now."""
        self._here = self._credentials()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_urgent() and self._api() in (api, None):  # noqa: ASYNC110  # others write it
                    await asyncio.sleep(LOOK_EVERY)

    def _is_urgent(self) -> bool:
        return self._asked or self._again or self._has_lost_something()

    def _credentials(self) -> set[Path]:
        """Return the files with our credentials that are there."""
        directory = self._directory
        files = (directory.token_file, directory.certificate_file, directory.key_file)
        return {path for path in files if file_stamp(path) is not None}

    def _has_lost_something(self) -> bool:
        """Return whether a file has been removed since the last renewal. One that this could not fetch is not lost
        again."""
        lost = self._here - self._credentials()
        if lost:
            log.warning("%s: missing, asking the API", ", ".join(sorted(map(str, lost))))
        return bool(lost)

    def _api(self) -> Api | None:
        """Return the API and our key, if there is one that can be read."""
        try:
            return self._directory.read_file().api
        except StateError:
            return None  # the daemon reports it

    def _without_key(self) -> None:
        """Forget former outcomes if this monitor has no API, rather than a file that is missing or invalid now."""
        if self.refusal is not None or self.trouble is not None:
            with contextlib.suppress(StateError):
                self._directory.read_state()
                self._use(None)

    async def _renew(self) -> Outcome:
        """Run a child and return its outcome: never that of an earlier one."""
        again, self._again, self._asked = self._again, False, False
        if again:
            self._again_from = time.monotonic() + AGAIN_EVERY
        before = file_stamp(self._directory.renewal_file)
        problem = await self._run_child(again=again)
        outcome = read_outcome(self._directory)
        if outcome is not None and file_stamp(self._directory.renewal_file) != before:
            return outcome
        return Outcome(at=datetime.now(UTC), kind="failed", text=problem)

    async def _run_child(self, *, again: bool) -> str:
        """Run a child; return what to say if it has told no outcome."""
        isolated = ["-P"] if sys.flags.safe_path else []
        command = [*isolated, "-m", "agent.renew", str(self._directory.path.parent), self._directory.env]
        command += ["--local", self._local] if self._local else []
        command += ["--again"] if again else []
        try:
            child = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            return f"the renewal could not be started: {error.strerror or error}"
        try:
            async with asyncio.timeout(LONGEST_RUN):
                await child.wait()
        except TimeoutError:
            return f"the renewal was ended after {LONGEST_RUN:g} s"
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        return f"the renewal ended with status {child.returncode} and left no outcome in {self._directory.path}"

    def _use(self, outcome: Outcome | None) -> None:
        refusal = refusal_after(outcome, self.refusal)
        trouble = None if outcome is None else "; ".join(filter(None, (outcome.text, outcome.clock))) or None
        if trouble is None:
            self._warning.over()
        else:
            self._warning.warning("%s", trouble)
        if outcome is not None and outcome.kind == "ok" and outcome.address != self._address:
            self._address = outcome.address
            if self._address:
                log.warning("%s", self._address)
        away = outcome is not None and outcome.kind == "unreachable" and not outcome.clock
        if (refusal, trouble, away) != (self.refusal, self.trouble, self.away):
            self.refusal, self.trouble, self.away = refusal, trouble, away
            self.on_change()

"""Report a worker's health: for each of its dependencies, the time since it was last healthy; and whether it is ready.

A restart of the broker or of the database is normal. So each dependency may be unavailable for a while before the
worker counts as unhealthy; meanwhile monitoring systems can read the ages. A worker is ready only while it can do its
work: it is not while a dependency is unavailable, however shortly, nor before its start is complete, nor once it stops.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from runtime.retry import Outage

BOUND: Final = 30.0
"""Maximum seconds for which database, broker, clock or event loop may be unhealthy."""

READY_BOUND: Final = 15.0
"""Maximum seconds without an answer of the database, or without an iteration of the event loop, of a ready worker. The
clock comparison asks the database every five seconds."""

WORK_BOUND: Final = 120.0
"""Maximum seconds of one round of work. A transaction that waits for locks and for a slow server takes a minute."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Health of one dependency of a worker."""

    age: float
    """Seconds since it was last healthy."""
    bound: float = BOUND
    detail: str | None = None
    """Description of the problem, without secrets."""

    @property
    def ok(self) -> bool:
        """Return whether it is healthy, or has been unhealthy for no longer than its bound."""
        return self.age <= self.bound


@dataclass(frozen=True, slots=True)
class Report:
    """Health of all dependencies by name."""

    service: str
    findings: Mapping[str, Finding]

    @property
    def ok(self) -> bool:
        """Return whether all are."""
        return all(finding.ok for finding in self.findings.values())

    def as_json(self) -> dict[str, Any]:
        """Return the report for ``/healthz``."""
        return {
            "ok": self.ok,
            "service": self.service,
            "checks": {name: _as_json(finding) for name, finding in self.findings.items()},
        }


class Phase(Enum):
    """Phase of a worker's life."""

    STARTING = "starting"
    """It waits for the database, checks its version, and builds its parts."""
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(slots=True)
class Life:
    """Phase of a worker, and the dependencies without which it cannot work."""

    phase: Phase = Phase.STARTING
    needs_broker: bool = True


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a worker can do its work now: for each condition, the reason why it is not met; None if it is."""

    service: str
    missing: Mapping[str, str | None]

    @property
    def ok(self) -> bool:
        """Return whether all are met."""
        return all(why is None for why in self.missing.values())

    def as_json(self) -> dict[str, Any]:
        """Return the answer to ``/readyz``."""
        checks = {name: {"ok": True} if why is None else _not_ready(why) for name, why in self.missing.items()}
        return {"ok": self.ok, "service": self.service, "checks": checks}


def _not_ready(why: str) -> dict[str, Any]:
    return {"ok": False, "detail": why}


def _as_json(finding: Finding) -> dict[str, Any]:
    fields = {"ok": finding.ok, "age": round(finding.age, 1), "bound": finding.bound}
    return fields if finding.detail is None else fields | {"detail": finding.detail}


class LastWell:
    """Time at which something was last healthy, initially the time of creation."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._at = monotonic()

    def note(self) -> None:
        """Record that it is healthy now."""
        self._at = self._monotonic()

    def age(self) -> float:
        """Return the seconds since then."""
        return max(0.0, self._monotonic() - self._at)


class Rounds:
    """Running rounds of work; a round that does not end reveals a worker that hangs."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began: dict[str, float] = {}

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Mark a round of the loop ``name`` as running within the ``with`` block."""
        self._began[name] = self._monotonic()
        try:
            yield
        finally:
            self._began.pop(name, None)

    def finding(self) -> Finding:
        """Return the duration of the longest running round."""
        # A copy, since health is read from another thread.
        began = dict(self._began)
        if not began:
            return Finding(0.0, WORK_BOUND)
        name = min(began, key=lambda name: began[name])
        age = max(0.0, self._monotonic() - began[name])
        return Finding(age, WORK_BOUND, f"a round of {name} is under way")


class Contact(Outage):
    """State of the database: the work that waits for it, since when, and the time of its last answer."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__("database", monotonic)
        self._answered = LastWell(monotonic)

    def succeeded(self, who: object) -> None:
        """Record that ``who`` has succeeded."""
        self._answered.note()
        super().succeeded(who)

    def why_unavailable(self) -> str | None:
        """Return why the database is unavailable now; None if it is available."""
        if (longest := self.longest()) is not None:
            return longest[1]
        age = self._answered.age()
        return f"no answer for {age:.0f} s" if age > READY_BOUND else None

    def finding(self) -> Finding:
        """Return the time since it has failed for some work, or else since its last answer."""
        longest = self.longest()
        if longest is None:
            return Finding(self._answered.age())
        age, reason = longest
        return Finding(age, detail=reason)

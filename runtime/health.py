"""Report a worker's health: for each of its dependencies, the time since it was last healthy.

A restart of the broker or of the database is normal. So each dependency may be unavailable for a while before the
worker counts as unhealthy; meanwhile monitoring systems can read the ages.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from runtime.retry import Outage

BOUND: Final = 30.0
"""Maximum seconds for which database, broker, clock or event loop may be unhealthy."""

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

    def finding(self) -> Finding:
        """Return the time since it has failed for some work, or else since its last answer."""
        longest = self.longest()
        if longest is None:
            return Finding(self._answered.age())
        age, reason = longest
        return Finding(age, detail=reason)

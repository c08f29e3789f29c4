"""Whether a worker is well: each thing that it depends on, and since when not.

A restart of the broker or of the database is no illness. So each may be away for a while before the whole is called
unwell, and monitoring systems see by the ages what is going on meanwhile.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from runtime.retry import Outage

BOUND: Final = 30.0
"""Seconds for which database, broker, clock or event loop may be unwell."""

WORK_BOUND: Final = 120.0
"""Seconds that one round of work may take. A transaction that meets locks and a server that is silent for a while
takes a minute."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One of the things that a worker depends on."""

    age: float
    """Seconds since it was last well."""
    bound: float = BOUND
    detail: str | None = None
    """What is wrong, in words without secrets."""

    @property
    def ok(self) -> bool:
        """Whether it is well, or has not been unwell for too long."""
        return self.age <= self.bound


@dataclass(frozen=True, slots=True)
class Report:
    """All of them, by name."""

    service: str
    findings: Mapping[str, Finding]

    @property
    def ok(self) -> bool:
        """Whether all are."""
        return all(finding.ok for finding in self.findings.values())

    def as_json(self) -> dict[str, Any]:
        """For ``/healthz``."""
        return {
            "ok": self.ok,
            "service": self.service,
            "checks": {name: _as_json(finding) for name, finding in self.findings.items()},
        }


def _as_json(finding: Finding) -> dict[str, Any]:
    told = {"ok": finding.ok, "age": round(finding.age, 1), "bound": finding.bound}
    return told if finding.detail is None else told | {"detail": finding.detail}


class LastWell:
    """When something was last well; at first, when it was made."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._at = monotonic()

    def note(self) -> None:
        """It is well now."""
        self._at = self._monotonic()

    def age(self) -> float:
        """Seconds since then."""
        return max(0.0, self._monotonic() - self._at)


class Rounds:
    """The rounds of work that are under way: one that does not end is a worker that only looks alive."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began: dict[str, float] = {}

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """A round of the loop ``name``."""
        self._began[name] = self._monotonic()
        try:
            yield
        finally:
            self._began.pop(name, None)

    def finding(self) -> Finding:
        """How long the longest has been under way."""
        # A copy: health is asked for from another thread.
        began = dict(self._began)
        if not began:
            return Finding(0.0, WORK_BOUND)
        name = min(began, key=lambda name: began[name])
        age = max(0.0, self._monotonic() - began[name])
        return Finding(age, WORK_BOUND, f"a round of {name} is under way")


class Contact(Outage):
    """The worker's contact with its database: who waits for it, since when, and when it last answered."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__("database", monotonic)
        self._answered = LastWell(monotonic)

    def succeeded(self, who: object) -> None:
        """``who`` did its work."""
        self._answered.note()
        super().succeeded(who)

    def finding(self) -> Finding:
        """Since when it fails anybody, or answers nobody."""
        longest = self.longest()
        if longest is None:
            return Finding(self._answered.age())
        age, reason = longest
        return Finding(age, detail=reason)

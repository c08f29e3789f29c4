"""Say in words whether a server is handed out, if not why not, since when, and what its monitors see. Pure.

Words and limits come from the constants of the scorer, so that the pages cannot contradict the scores.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from scorer.formula import (
    FAR_OFF_BEYOND,
    NETWORK_ERROR,
    NO_RESPONSE,
    OFF_BEYOND,
    TOO_FAR_FROM_REFERENCE,
    WORST_STRATUM,
)
from scorer.policy import HANDED_OUT_ABOVE
from web.attributes import read_attributes
from web.model import Entry, Monitor, Server

RECENT: Final = timedelta(hours=1)
"""A monitor counts if its newest result is at most so much older than the server's."""

STALE_AFTER: Final = timedelta(hours=1)
"""A score that is older is no statement about now."""

NO_ANSWER: Final = "no answer"
WRONG_TIME: Final = "wrong time"
NOT_FOLLOWED: Final = "not followed"


def shown_score(score: float) -> str:
    """Return a score with one decimal, on the same side of the limit as the score itself."""
    if HANDED_OUT_ABOVE < score < HANDED_OUT_ABOVE + 0.05:
        return f"{math.ceil(score * 10) / 10:.1f}"
    text = f"{score:.1f}"
    return "0.0" if text == "-0.0" else text


# ---- what monitors see -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """Trouble of one kind that monitors see at a server."""

    kind: str
    """:data:`NO_ANSWER`, :data:`WRONG_TIME`, :data:`NOT_FOLLOWED`, or the error."""
    monitors: int
    of: int
    """Monitors that were asked."""
    since: datetime
    """Since when one of them has seen nothing else."""
    worst: float | None = None
    """The largest offset that one of them saw last, in seconds, for :data:`WRONG_TIME`."""

    @property
    def words(self) -> str:
        """Return it as the end of a sentence, without the time."""
        who = f"{self.monitors} of {self.of} monitors"
        get, see = ("gets", "sees") if self.monitors == 1 else ("get", "see")
        match self.kind:
            case "no answer":
                return f"{who} {get} no answer"
            case "not followed":
                return f"{who} {get} answers that no client would follow, such as those of stratum {WORST_STRATUM}"
            case "wrong time":
                return f"{who} {see} its time off by up to {offset_words(abs(self.worst or 0.0))}"
        return f"{who} {get} the error “{self.kind}”"


def offset_words(seconds: float) -> str:
    """Return an offset with a unit that suits its size."""
    if abs(seconds) >= OFF_BEYOND:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.{1 if abs(seconds) >= 0.01 else 3}f} ms"


def kind_of(entry: Entry, ip: str) -> str | None:
    """Return the kind of trouble in one result; None if it is good enough not to lower the score for long."""
    if entry.step >= 0:
        return None
    error = read_attributes(entry.attributes, ip).error
    if entry.step == NO_RESPONSE.step or error.startswith(NETWORK_ERROR):
        return NO_ANSWER
    if error:
        return error
    if entry.offset is None:
        return "an answer without a time"
    far = abs(entry.offset) > FAR_OFF_BEYOND
    return NOT_FOLLOWED if entry.step == TOO_FAR_FROM_REFERENCE.step and not far else WRONG_TIME


def troubles(entries: Iterable[Entry], asked: Iterable[Monitor], ip: str) -> list[Trouble]:
    """Return what the monitors see, the most frequent trouble first.

    Args:
        entries: the newest first.
        asked: the monitors whose results count.
    """
    results = _recent(entries, {monitor.id for monitor in asked})
    found: dict[str, list[tuple[datetime, float | None]]] = {}
    for own in results.values():
        kind = kind_of(own[0], ip)
        if kind is not None:
            found.setdefault(kind, []).append((_since(own, kind, ip), own[0].offset))
    seen = [
        Trouble(kind, len(ones), len(results), min(since for since, _ in ones), _worst(offset for _, offset in ones))
        for kind, ones in found.items()
    ]
    return sorted(seen, key=lambda trouble: (-trouble.monitors, trouble.kind))


def _recent(entries: Iterable[Entry], ids: set[int]) -> dict[int, list[Entry]]:
    """Return the results of each monitor, without those of monitors that have had none for long."""
    results: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.monitor_id in ids:
            results.setdefault(entry.monitor_id, []).append(entry)
    newest = max((own[0].ts for own in results.values()), default=None)
    return {one: own for one, own in results.items() if newest is not None and newest - own[0].ts <= RECENT}


def _since(own: Sequence[Entry], kind: str, ip: str) -> datetime:
    since = own[0].ts
    for entry in own:
        if kind_of(entry, ip) != kind:
            break
        since = entry.ts
    return since


def _worst(offsets: Iterable[float | None]) -> float | None:
    return max((offset for offset in offsets if offset is not None), key=abs, default=None)


def who_counts(monitors: Sequence[Monitor]) -> list[Monitor]:
    """Return the monitors whose results decide: the active ones; without them testing ones, else candidates."""
    measuring = [monitor for monitor in monitors if monitor.type == "monitor"]
    for status in ("active", "testing", "candidate"):
        if found := [monitor for monitor in measuring if monitor.status == status]:
            return found
    return []


# ---- the server --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a server is handed out to clients, and why."""

    handed_out: bool
    sentence: str
    reasons: tuple[str, ...]
    """Sentences, the most important first."""
    since: datetime | None
    """Since when its score is on this side of the limit; None if it is unknown."""
    at_least: bool = False
    """It may be on this side for longer; the log does not go back further."""


def judge(server: Server, scores: Sequence[Entry], measured_by: int, now: datetime) -> Verdict:
    """Return the verdict on a server.

    Args:
        scores: the rows of the pool's scorer, the newest first.
        measured_by: the number of monitors that have been told to measure it.
    """
    obstacles = list(_obstacles(server, now.date()))
    above = server.score > HANDED_OUT_ABOVE
    since, at_least = _side_since(scores, above)
    if server.score_ts is None:
        obstacles.append("It has not been measured yet." if measured_by else "No monitor measures it yet.")
    elif not above:
        obstacles.append(f"Its score is not higher than {HANDED_OUT_ABOVE:g}.")
    handed_out = not obstacles
    reasons = list(obstacles)
    if server.score_ts is not None and now - server.score_ts > STALE_AFTER:
        reasons.append("There are no newer results, so nothing is known about it now.")
    sentence = "Clients are sent to this server." if handed_out else "Clients are not sent to this server."
    return Verdict(handed_out, sentence, tuple(reasons), since, at_least)


def _obstacles(server: Server, today: date) -> Iterable[str]:
    """Yield why a server is not handed out whatever its score."""
    if server.deletion_on is not None:
        gone = server.deletion_on <= today
        yield f"It {'was' if gone else 'is to be'} removed from the pool on {server.deletion_on.isoformat()}."
    elif not server.in_pool:
        yield "It is not in the pool."
    elif server.netspeed <= 0:
        yield "It is monitored only, as its operator wishes."


def _side_since(scores: Sequence[Entry], above: bool) -> tuple[datetime | None, bool]:
    """Return since when the score is on this side of the limit, and whether it may be for longer."""
    since: datetime | None = None
    for entry in scores:
        if (entry.score > HANDED_OUT_ABOVE) != above:
            return since, False
        since = entry.ts
    return since, since is not None


# ---- for monitoring systems --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """The state of a server for a monitoring system."""

    state: str
    """``ok``, ``bad`` or ``unknown``; only ``bad`` is an alarm."""
    sentence: str
    score: float
    threshold: float
    agree: int
    """Monitors whose own score of the server is not above the threshold."""
    of: int


DEFAULT_AGREE: Final = 2
"""Monitors that must agree by default, so that one far monitor raises no alarm."""


def check(server: Server, monitors: Sequence[Monitor], threshold: float, needed: int, now: datetime) -> Check:
    """Return the state of a server: bad if its score is not above ``threshold``, and enough monitors agree.

    Args:
        needed: monitors that must agree; if fewer measure it, all of them.
    """
    if server.score_ts is None or now - server.score_ts > STALE_AFTER:
        sentence = "it has not been measured yet" if server.score_ts is None else "it has not been measured lately"
        return Check("unknown", sentence, server.score, threshold, 0, 0)
    newest = server.score_ts
    counting = [one for one in who_counts(monitors) if one.ts is not None and newest - one.ts <= RECENT]
    agree = sum(one.score <= threshold for one in counting)
    said = (
        f"score {shown_score(server.score)}, threshold {threshold:g}; {agree} of {len(counting)} monitors see trouble"
    )
    low = server.score <= threshold
    bad = low and agree >= max(1, min(needed, len(counting)))
    return Check("bad" if bad else "ok", said, server.score, threshold, agree, len(counting))

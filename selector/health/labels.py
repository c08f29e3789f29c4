"""Decide which labels a monitor has. Pure.

Each label has two thresholds (hysteresis): it is raised at the first, and cleared only beyond the second, so that a
value between them changes nothing. The same holds for the evidence that it needs. Every threshold is defined here, with
its reason.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from schema.health import MAX_REASON, HealthLabel
from schema.names import IpVersion
from selector.health.facts import DAY, HOUR, MONTH, MonitorFacts
from selector.health.hours import NEAREST, MonitorHour

Figures = Mapping[str, int | float]


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a monitor has a label: in words, and the figures as numbers."""

    reason: str
    figures: Figures


class Band(NamedTuple):
    """Thresholds of a label: it is raised at ``enter``, and kept as far as ``keep``."""

    enter: float
    keep: float

    def at_least(self, value: float, held: bool) -> bool:
        """Return whether a label that large values raise holds at ``value``."""
        return value >= (self.keep if held else self.enter)

    def at_most(self, value: float, held: bool) -> bool:
        """Return whether a label that small values raise holds at ``value``."""
        return value <= (self.keep if held else self.enter)


BUSY: Final = Band(10, 5)
"""Probes in the usual hour with which an hour without any means something: by chance, none would be without one."""

STABLE_HOURS: Final = Band(18, 12)
"""Hours of the last day that must count: half a day of outages of the pool proves nothing."""
STABLE_MISSED: Final = Band(0, 1)
"""Hours of the last day without results. A restart in the wrong minutes may cost one."""
STABLE_MONTH_HOURS: Final = Band(540, 360)
"""Hours of the last 30 days that must count, in the same proportion as those of a day."""
STABLE_MONTH_SHARE: Final = Band(0.995, 0.99)
"""Share of the hours with results: 3 hours of a month may be missing for an update and a reboot, and 7 end it."""

CLOCK_WITHIN: Final = 6 * HOUR
"""Period of the clock's offset: one bad hour does not matter, and a clock that goes wrong is noticed after three."""
CLOCK_SERVERS: Final = 10
"""Servers of an hour that must be compared; the median of fewer is that of a few asymmetric routes."""
CLOCK_HOURS: Final = Band(3, 1)
CLOCK_GOOD: Final = Band(0.005, 0.010)
"""Seconds of |offset|: routes are asymmetric by milliseconds, and 10 ms is what agents tolerate in their own check."""
CLOCK_OFF: Final = Band(0.025, 0.015)
"""Seconds of |offset|: beyond 25 ms, the score formula lowers the score of every server that is right."""

LOSS_PROBES: Final = Band(300, 100)
"""Judged probes of a day: at 2 % of 300, the standard error is below 1 %."""
LOSS: Final = Band(0.02, 0.01)
"""Share of lost probes in excess of the others'. A loss costs 6 points of a step that is 1 otherwise, so 2 % take a
perfect server from 20 to 17.6, and 10 % to 8: out of the pool."""

FLAKY_HOURS: Final = Band(3, 2)
"""Hours of the last day in which one protocol failed while the other one of the same host worked."""
FLAKY_LOSS: Final = 0.25
"""Share of lost probes with which an hour has failed: more than any congestion of a working network."""
SIBLING_LOSS: Final = 0.05
"""Maximum share of lost probes with which an hour of the other protocol has worked."""

OFTEN_DAYS: Final = Band(3, 2)
"""Days of the last seven on which a monitor was there and was missing, too: a host that is off at night has seven, a
maintenance or an operator's pause two at most."""
OFTEN_MISSED: Final = 2
"""Hours without results of such a day; a single one is tolerated as for stable-1d."""
OFTEN_COUNTED: Final = 12
"""Hours of a day that must count."""

FAR: Final = Band(0.150, 0.120)
"""Seconds to the ten nearest servers. Every inhabited place has ten servers nearer than that over any wire; beyond are
satellites, tunnels and routes around the world, whose asymmetry makes offsets uncertain by half of it."""
FAR_HOURS: Final = Band(6, 3)


def judge(facts: MonitorFacts, held: Collection[HealthLabel]) -> dict[HealthLabel, Finding]:
    """Return the labels of a monitor and their reasons, given those that it has already."""
    found = ((label, rule(facts, label in held)) for label, rule in _rules_for(facts.ipv))
    return {label: finding for label, finding in found if finding is not None}


def stable_day(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``stable-1d``: results in every hour of the last day."""
    day = facts.days[0]
    if not _is_busy(facts, held) or facts.age < DAY or not STABLE_HOURS.at_least(day.counted, held):
        return None
    if not STABLE_MISSED.at_most(day.missed, held):
        return None
    return Finding(
        f"delivered results in {day.delivered} of {day.counted} hours, 24 h",
        {"hours": day.delivered, "of": day.counted},
    )


def stable_month(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``stable-30d``: results in nearly every hour of 30 days."""
    month = facts.month
    if not _is_busy(facts, held) or facts.age < MONTH or not STABLE_MONTH_HOURS.at_least(month.counted, held):
        return None
    share = month.delivered / month.counted
    if not STABLE_MONTH_SHARE.at_least(share, held):
        return None
    return Finding(
        f"delivered results in {_percent(share)} of {month.counted} hours, 30 d",
        {"hours": month.delivered, "of": month.counted},
    )


def clock_good(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``clock-good``: the clock agrees with those of other monitors."""
    found = _clock(facts, held)
    return found if found is not None and CLOCK_GOOD.at_most(abs(found.figures["offset"]), held) else None


def clock_off(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``clock-off``: the clock differs from those of other monitors."""
    found = _clock(facts, held)
    return found if found is not None and CLOCK_OFF.at_least(abs(found.figures["offset"]), held) else None


def _clock(facts: MonitorFacts, held: bool) -> Finding | None:
    hours = [
        found
        for hour in facts.latest[: CLOCK_WITHIN // HOUR]
        if (found := facts.hours.get(hour)) is not None and found.clock_servers >= CLOCK_SERVERS
    ]
    offsets = [found.clock_offset for found in hours if found.clock_offset is not None]
    if not offsets or not CLOCK_HOURS.at_least(len(offsets), held):
        return None
    offset, servers = median(offsets), int(median(found.clock_servers for found in hours))
    where = "ahead of" if offset >= 0 else "behind"
    return Finding(
        f"its clock is {abs(offset) * 1e3:.1f} ms {where} those of other monitors at {_count(servers)} servers, 6 h",
        {"offset": round(offset, 6), "servers": servers, "hours": len(offsets)},
    )


def loses_packets(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``loses-packets``: probes are lost to servers from which other monitors get answers."""
    judged, lost = sum(hour.judged for hour in facts.hours.values()), sum(hour.lost for hour in facts.hours.values())
    if not LOSS_PROBES.at_least(judged, held):
        return None
    expected = sum(hour.expected_lost for hour in facts.hours.values())
    if not LOSS.at_least((lost - expected) / judged, held):
        return None
    return Finding(
        f"lost {_percent(lost / judged)} of {_count(judged)} probes to servers that others reach, 24 h; "
        f"others lost {_percent(expected / judged)}",
        {"lost": lost, "probes": judged, "share": round(lost / judged, 5), "share_of_others": _share(expected, judged)},
    )


def flaky(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``v4-flaky`` or ``v6-flaky``: the protocol fails while the other one of the same host works."""
    if facts.hours and not _is_busy(facts, held):
        return None
    worked = [hour for hour in facts.latest if (other := facts.sibling.get(hour)) is not None and _works(other)]
    failed = [hour for hour in worked if (own := facts.hours.get(hour)) is None or _fails(own)]
    if not FLAKY_HOURS.at_least(len(failed), held):
        return None
    sibling = "IPv4" if facts.ipv == "v6" else "IPv6"
    return Finding(
        f"failed in {len(failed)} of {len(worked)} hours in which {sibling} worked on the same host, 24 h",
        {"hours": len(failed), "of": len(worked)},
    )


def _works(hour: MonitorHour) -> bool:
    return hour.judged >= BUSY.keep and hour.lost <= SIBLING_LOSS * hour.judged


def _fails(hour: MonitorHour) -> bool:
    return hour.judged >= BUSY.keep and hour.lost >= FLAKY_LOSS * hour.judged


def offline_often(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``offline-often``: on several days, results in some hours but not in all."""
    if facts.hours and not _is_busy(facts, held):
        return None
    partial = [
        day for day in facts.days if day.counted >= OFTEN_COUNTED and day.delivered and day.missed >= OFTEN_MISSED
    ]
    if not OFTEN_DAYS.at_least(len(partial), held):
        return None
    missed, counted = sum(day.missed for day in facts.days), sum(day.counted for day in facts.days)
    return Finding(
        f"came and went on {len(partial)} of the last 7 days: no results in {missed} of {counted} hours",
        {"days": len(partial), "missed": missed, "of": counted},
    )


def far_from_all(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``far-from-all``: even the nearest servers are far away."""
    rtts = [hour.nearest_rtt for hour in facts.hours.values() if hour.nearest_rtt is not None]
    if not rtts or not FAR_HOURS.at_least(len(rtts), held) or not FAR.at_least(median(rtts), held):
        return None
    return Finding(
        f"the rtt of its {NEAREST} nearest servers is {median(rtts) * 1e3:.0f} ms, 24 h",
        {"rtt": round(median(rtts), 6), "hours": len(rtts)},
    )


def not_probing(facts: MonitorFacts, held: bool) -> Finding | None:
    """Judge ``not-probing``: its agent says so, and the last hour, too."""
    newest = facts.latest[0] if facts.latest else None
    if facts.not_probing is None or newest in facts.hours:
        return None
    return Finding(f"its agent says: {facts.not_probing}"[:MAX_REASON], {})


Rule = Callable[[MonitorFacts, bool], Finding | None]
"""A label's rule: from the facts, and whether the monitor has the label already."""

_RULES: Final[Mapping[HealthLabel, Rule]] = {
    HealthLabel.STABLE_1D: stable_day,
    HealthLabel.STABLE_30D: stable_month,
    HealthLabel.CLOCK_GOOD: clock_good,
    HealthLabel.CLOCK_OFF: clock_off,
    HealthLabel.LOSES_PACKETS: loses_packets,
    HealthLabel.V4_FLAKY: flaky,
    HealthLabel.V6_FLAKY: flaky,
    HealthLabel.OFFLINE_OFTEN: offline_often,
    HealthLabel.FAR_FROM_ALL: far_from_all,
    HealthLabel.NOT_PROBING: not_probing,
}
_OF_OTHER_PROTOCOL: Final[Mapping[IpVersion, HealthLabel]] = {"v4": HealthLabel.V6_FLAKY, "v6": HealthLabel.V4_FLAKY}


def _rules_for(ipv: IpVersion) -> list[tuple[HealthLabel, Rule]]:
    return [(label, rule) for label, rule in _RULES.items() if label is not _OF_OTHER_PROTOCOL[ipv]]


def _is_busy(facts: MonitorFacts, held: bool) -> bool:
    """Return whether its usual hour has enough probes for an hour without any to mean something."""
    return bool(facts.hours) and BUSY.at_least(median(hour.probes for hour in facts.hours.values()), held)


def _share(part: float, of: int) -> float:
    return round(part / of, 5)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}".replace(",", " ")

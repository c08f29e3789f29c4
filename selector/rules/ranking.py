"""Rank monitors by their suitability for a server, from their results of the last 24 h.

The order determines which monitors are promoted, removed or swapped. It is total, so that two monitors never tie and no
decision depends on the order of rows.
"""

import math

from selector.rules.model import Health, Monitor, Settings

_ORDER = {Health.HEALTHY: 0, Health.UNKNOWN: 1, Health.UNHEALTHY: 2}

SortKey = tuple[int, float, float, float, int]


def health(monitor: Monitor) -> Health:
    """Return the monitor's health: healthy with an average step of at least 0, unknown without results or if gone.

    A monitor that is gone (offline by its last will, or silent for 15 minutes) is not promoted and gives way to a
    healthy one, but this alone does not remove it: when the pool's own broker or network fails, all monitors are gone
    at once, and the server must keep its monitors.
    """
    if monitor.gone or monitor.count == 0 or monitor.avg_step is None:
        return Health.UNKNOWN
    return Health.HEALTHY if monitor.avg_step >= 0 else Health.UNHEALTHY


def priority(monitor: Monitor) -> int | None:
    """Return ``round(avg_rtt_ms * (1 + 2 * (1 - avg_step)))``, halves up; lower is better. None without an rtt."""
    if monitor.avg_rtt_ms is None or monitor.avg_step is None:
        return None
    return math.floor(monitor.avg_rtt_ms * (1 + 2 * (1 - monitor.avg_step)) + 0.5)


def sort_key(monitor: Monitor, how: Health, points: int | None) -> SortKey:
    """Return the key that sorts best first: healthy, unknown, unhealthy; priority; higher step; lower rtt; lower id."""
    return (
        _ORDER[how],
        math.inf if points is None else points,
        math.inf if monitor.avg_step is None else -monitor.avg_step,
        math.inf if monitor.avg_rtt_ms is None else monitor.avg_rtt_ms,
        monitor.id,
    )


def beats(points: int | None, other_health: Health, other_points: int | None, settings: Settings) -> bool:
    """Return whether a healthy monitor of priority ``points`` is better enough than another to replace it.

    It is always better than one that is not healthy. Against a healthy one, the difference must be at least 5 points
    and 5 % of the other's priority, so that noise does not move monitors.
    """
    if other_health is not Health.HEALTHY:
        return True
    if points is None:
        return False
    if other_points is None:
        return True
    gain = other_points - points
    return gain >= settings.swap_points and 100 * gain >= settings.swap_percent * other_points

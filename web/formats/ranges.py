"""Thin out a range of time to as many points as a graph can show, and format it for Grafana. Pure.

A range is divided into parts of equal duration. Of each part, the rows with the lowest and the highest score, rtt and
offset are kept, so a short outage, or one wild offset, is visible at any scale.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from web.formats.numbers import Members, plain
from web.model import Entry, Monitor

_VALUES: Final[tuple[Callable[[Entry], float | None], ...]] = (
    lambda entry: entry.score,
    lambda entry: entry.offset,
    lambda entry: entry.rtt,
)
"""The values whose extremes are kept, the most important first."""

_EXTREMES: Final = 2 * len(_VALUES)
"""Maximum rows that are kept of one part."""

_COLUMNS: Final = [
    {"text": "time", "type": "time"},
    {"text": "score", "type": "number"},
    {"text": "rtt", "type": "number", "unit": "ms"},
    {"text": "offset", "type": "number", "unit": "s"},
]


def thinned(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Return at most ``most`` of the entries, which are in the order of their time, with their extremes."""
    if len(entries) <= most:
        return list(entries)
    parts = max(1, most // _EXTREMES)
    begin, end = entries[0].epoch, entries[-1].epoch + 1
    divided: list[list[Entry]] = [[] for _ in range(parts)]
    for entry in entries:
        divided[(entry.epoch - begin) * parts // (end - begin)].append(entry)
    return [entry for part in divided for entry in extremes(part, min(most, _EXTREMES))]


def extremes(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Return at most ``most`` entries with the lowest and highest values, in the order of ``entries``."""
    if len(entries) <= most:
        return list(entries)
    chosen: dict[int, None] = {}
    for value in _VALUES:
        known = [(found, place) for place, entry in enumerate(entries) if (found := value(entry)) is not None]
        if known:
            chosen |= {min(known)[1]: None, max(known)[1]: None}
    return [entries[place] for place in sorted(list(chosen)[:most])]


def range_json(entries: Iterable[Entry], monitors: Mapping[int, Monitor], most: int) -> bytes:
    """Return the series of all monitors in ``entries``, which are in the order of their time.

    Args:
        most: maximum points of each series.
    """
    series: dict[int, list[Entry]] = {}
    for entry in entries:
        series.setdefault(entry.monitor_id, []).append(entry)
    made = [
        _series(monitors[monitor_id], thinned(series[monitor_id], most))
        for monitor_id in sorted(series)
        if monitor_id in monitors
    ]
    return msgspec.json.encode(made) + b"\n"


def _series(monitor: Monitor, entries: Sequence[Entry]) -> Members:
    return {
        "target": f"monitor{{name={monitor.name}}}",
        "tags": {
            "monitor_id": str(monitor.id),
            "monitor_name": monitor.name,
            "type": monitor.type,
            "status": monitor.status,
        },
        "columns": _COLUMNS,
        "values": [_values(entry) for entry in entries],
    }


def _values(one: Entry) -> list[float | int | None]:
    rtt, offset = one.rtt_ms, one.offset
    return [
        one.epoch * 1000,
        plain(one.score),
        None if rtt is None else plain(rtt),
        None if offset is None else plain(offset),
    ]

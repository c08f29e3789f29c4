"""Format the history of a server: ``json`` with its monitors, ``log`` as CSV, and the list of its monitors. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from web.attributes import read_attributes
from web.formats.numbers import Members, decimal, milliseconds, plain, rfc3339
from web.model import Entry, Monitor

CSV_HEADER: Final = "ts_epoch,ts,offset,step,score,monitor_id,monitor_name,rtt,leap,error"

_SCORE_DECIMALS: Final = 12
_SPECIAL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters, and separators that some readers take for the end of a line."""


# ---- json ------------------------------------------------------------------------------------------------------------


def history_json(ip: str, history: Sequence[Entry], monitors: Iterable[Monitor]) -> bytes:
    """Return the history in its given order, with the monitors that occur in it."""
    averages = _average_rtts(history)
    occurring = {entry.monitor_id for entry in history}
    return _encode(
        {
            "history": [_entry(one) for one in history],
            "monitors": [_monitor(one, averages.get(one.id)) for one in monitors if one.id in occurring],
            "server": {"ip": ip},
        }
    )


def _entry(one: Entry) -> Members:
    found: Members = {"ts": one.epoch}
    if one.offset is not None:
        found["offset"] = plain(one.offset)
    found |= {"step": plain(one.step), "score": plain(round(one.score, _SCORE_DECIMALS)), "monitor_id": one.monitor_id}
    if one.rtt is not None:
        found["rtt"] = milliseconds(one.rtt)
    return found


def _monitor(one: Monitor, avg_rtt: float | None) -> Members:
    found: Members = {
        "id": one.id,
        "name": one.name,
        "type": one.type,
        "ts": rfc3339(one.ts),
        "score": plain(round(one.score, 1)),
        "status": one.status,
    }
    if avg_rtt is not None:
        found["avg_rtt"] = plain(avg_rtt)
    return found


def _average_rtts(history: Iterable[Entry]) -> dict[int, float]:
    """Return the average rtt of each monitor in milliseconds, with three decimals."""
    rtts: dict[int, list[int]] = {}
    for entry in history:
        if entry.rtt is not None:
            rtts.setdefault(entry.monitor_id, []).append(entry.rtt)
    return {monitor_id: round(sum(found) / len(found) / 1000, 3) for monitor_id, found in rtts.items()}


def monitors_json(monitors: Iterable[Monitor]) -> bytes:
    """Return the list of a server's monitors."""
    listed = [
        {
            "id": one.id,
            "score": plain(round(one.score, 1)),
            "name": one.name,
            "ts": rfc3339(one.ts),
            "status": one.status,
            "type": one.type,
        }
        for one in monitors
    ]
    return _encode({"monitors": listed})


def _encode(value: Members) -> bytes:
    return msgspec.json.encode(value) + b"\n"


# ---- log -------------------------------------------------------------------------------------------------------------


def history_csv(ip: str, history: Iterable[Entry], names: Mapping[int, str]) -> bytes:
    """Return the history in its given order as CSV (RFC 4180, with line feeds).

    Args:
        names: the short names of the monitors, by id.
    """
    lines = [CSV_HEADER, *(_line(one, ip, names) for one in history)]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _line(one: Entry, ip: str, names: Mapping[int, str]) -> str:
    leap, error = read_attributes(one.attributes, ip)
    return ",".join(
        (
            str(one.epoch),
            one.ts.isoformat(" ", "seconds"),
            "" if one.offset is None else decimal(one.offset),
            decimal(one.step),
            decimal(one.score),
            str(one.monitor_id),
            quoted(names.get(one.monitor_id, "")),
            "" if one.rtt is None else decimal(one.rtt / 1000),
            str(leap) if leap else "",
            quoted(without_controls(error)),
        )
    )


def without_controls(text: str) -> str:
    """Return a text on one line, with ``<0x1B>`` in place of control characters."""
    if text.isascii() and text.isprintable():
        return text
    return _SPECIAL.sub(lambda found: f"<0x{ord(found[0]):02X}>", text)


def quoted(text: str) -> str:
    """Return a field of CSV, quoted if it has to be."""
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(char in text for char in ',"\r\n') else text

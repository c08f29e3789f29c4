"""Format the state of a server for monitoring systems: a line or JSON, and metrics in Prometheus' format. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from web.formats.numbers import plain
from web.model import Monitor, Server, epoch
from web.store.history import Sums
from web.verdict import Check

_WORDS: Final = {"ok": "OK", "bad": "BAD", "unknown": "UNKNOWN"}

Sample = tuple[Mapping[str, str], float]


def check_line(server: Server, found: Check) -> bytes:
    """Return the state as one line of text."""
    return f"{_WORDS[found.state]} {server.ip}: {found.sentence}\n".encode()


def check_json(server: Server, found: Check) -> bytes:
    """Return the state as JSON."""
    value = {
        "state": found.state,
        "message": found.sentence,
        "ip": server.ip,
        "score": plain(found.score),
        "threshold": plain(found.threshold),
        "monitors_agree": found.agree,
        "monitors": found.of,
    }
    return msgspec.json.encode(value) + b"\n"


def metrics_text(server: Server, monitors: Iterable[Monitor], sums: Mapping[int, Sums], hours: int) -> bytes:
    """Return the metrics of a server in the text format of Prometheus.

    Args:
        sums: of the last ``hours``, by monitor.
    """
    own = {"server": server.ip}
    measuring = [(one, own | {"monitor": one.name, "status": one.status}) for one in monitors if one.type == "monitor"]
    known = [(labels, sums[one.id]) for one, labels in measuring if one.id in sums]
    lines = [
        *_family("ntppool_server_score", "Score of the server, at most 20.", [(own, server.score)]),
        *_family("ntppool_server_in_pool", "1 if the server is in the pool.", [(own, float(server.in_pool))]),
        *_family(
            "ntppool_server_score_timestamp_seconds",
            "Time of the newest result.",
            [] if server.score_ts is None else [(own, float(epoch(server.score_ts)))],
        ),
        *_family(
            "ntppool_server_monitor_score",
            "Score of the server by one monitor.",
            [(labels, one.score) for one, labels in measuring],
        ),
        *_family(
            "ntppool_server_monitor_results",
            f"Results of one monitor in the last {hours} h.",
            [(labels, float(found.results)) for labels, found in known],
        ),
        *_family(
            "ntppool_server_monitor_lost_ratio",
            f"Share of the results of the last {hours} h without an answer.",
            [(labels, found.lost / found.results) for labels, found in known if found.results],
        ),
        *_family(
            "ntppool_server_monitor_rtt_seconds",
            f"Average round-trip time of the last {hours} h.",
            [(labels, found.rtt / 1e6) for labels, found in known if found.rtt is not None],
        ),
    ]
    return ("\n".join(lines) + "\n").encode()


def _family(name: str, description: str, samples: Iterable[Sample]) -> list[str]:
    listed = list(samples)
    if not listed:
        return []
    lines = [f"# HELP {name} {description}", f"# TYPE {name} gauge"]
    for labels, value in listed:
        text = ",".join(f'{label}="{_escaped(given)}"' for label, given in labels.items())
        lines.append(f"{name}{{{text}}} {value!r}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

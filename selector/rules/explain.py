"""Explain a review, as JSON data and as text for people; `simulate` shows both.

The explanation is derived from the `Review`: its steps hold the world after each rule, and each rule itself explains
why a monitor that it concerns did not move. So the explanation cannot differ from the decision, and a review costs
nothing more if no explanation is requested.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from selector.rules import (
    exchange,
    leave_at_once,
    leave_gradually,
    paused,
    promotions,
    swap_into_active,
    too_many,
)
from selector.rules.model import PairStatus, Skipped, Verdict
from selector.rules.world import Entry, Review, Step, World

_EXPLAINING = {
    PairStatus.ACTIVE: (leave_gradually.NAME, too_many.TOO_MANY_ACTIVE, swap_into_active.NAME),
    PairStatus.TESTING: (leave_gradually.NAME, promotions.PROMOTE_TO_ACTIVE),
    PairStatus.CANDIDATE: (leave_at_once.RULE.name, exchange.NAME, promotions.PROMOTE_TO_TESTING),
    PairStatus.PAUSED: (paused.NAME,),
}
"""The rules that best explain why a monitor keeps its status, by status; the first that gives a reason is used."""

_RESULT = (PairStatus.ACTIVE, PairStatus.TESTING, PairStatus.CANDIDATE, PairStatus.PAUSED)


def verdicts(review: Review) -> tuple[Verdict, ...]:
    """Return the verdict on every monitor of the review, best first, then on the skipped ones."""
    judged = [_verdict(review, entry) for entry in review.world.entries]
    left_out = [_left_out(skipped) for skipped in review.skipped]
    return tuple(judged + left_out)


def as_dict(review: Review) -> dict[str, Any]:
    """Return the review in JSON's types: the input, each rule's moves and stays with reasons, and the result."""
    world = review.world
    return {
        "server": {
            "id": world.server.id,
            "ip": world.server.address.text,
            "account_id": world.server.account_id,
        },
        "now": _time(world.now),
        "emergency": world.emergency,
        "limit": world.limit,
        "prefer_healthy": world.settings.prefer_healthy,
        "targets": {"active": world.settings.target_active, "testing": world.testing_target},
        "monitors": [_monitor(review, entry) for entry in world.entries],
        "left_out": [_skipped(skipped) for skipped in review.skipped],
        "rules": [_step(step) for step in review.steps],
        "result": {status.value: _names(world, status) for status in _RESULT},
        "verdicts": [
            {
                "monitor_id": verdict.monitor_id,
                "before": verdict.before,
                "after": verdict.after,
                "rule": verdict.rule,
                "reason": verdict.reason,
            }
            for verdict in verdicts(review)
        ],
    }


def as_text(review: Review) -> str:
    """Return the review as text: a table of the input, the rules in their order, and the result."""
    data = as_dict(review)
    server, targets = data["server"], data["targets"]
    labels = _LABELS if any(row["labels"] for row in data["monitors"]) else {}
    lines = [
        f"server {server['id']} ({server['ip']}, account {server['account_id'] or '-'}) at {data['now']}",
        f"targets after the review: {targets['active']} active, {targets['testing']} testing; "
        f"limit {data['limit']} per kind of change"
        + ("; of equally good monitors, the healthier first" if data["prefer_healthy"] else "")
        + ("; EMERGENCY: no monitor is active" if data["emergency"] else ""),
        "",
        *_table(_COLUMNS | labels, data["monitors"]),
        *(
            f"left out: {row['name']} ({row['status'] or 'status unknown'}): {row['reason']}"
            for row in data["left_out"]
        ),
    ]
    names = {entry.id: entry.monitor.name for entry in review.world.entries}
    for step in data["rules"]:
        lines += ["", f"{step['rule']}  ({step['about']})", *_step_lines(step, names)]
    lines += ["", "result"]
    lines += [f"  {status:<9} {len(who):>3}  {', '.join(who) or '-'}" for status, who in data["result"].items()]
    return "\n".join(lines) + "\n"


# ---- data ----------------------------------------------------------------------------------------------------------


def _verdict(review: Review, entry: Entry) -> Verdict:
    after = review.world.statuses[entry.id]
    for change in review.changes:
        if change.monitor_id == entry.id:
            return Verdict(entry.id, entry.status, after, change.rule, f"{change.rule}: {change.reason}")
    return Verdict(entry.id, entry.status, after, None, _why_unmoved(review, entry))


def _why_unmoved(review: Review, entry: Entry) -> str:
    for name in _EXPLAINING[entry.status]:
        step = next(step for step in review.steps if step.rule.name == name)
        reason = step.rule.stays(step.after, entry)
        if reason is not None:
            return f"stays {entry.status}: {reason} ({name})"
    return f"stays {entry.status}"


def _left_out(skipped: Skipped) -> Verdict:
    status = skipped.pair_status
    return Verdict(skipped.id, status, status, None, f"left out: {skipped.reason}")


def _monitor(review: Review, entry: Entry) -> dict[str, Any]:
    monitor, found = entry.monitor, review.violations.get(entry.id)
    return {
        "id": entry.id,
        "name": monitor.name,
        "ip": None if monitor.address is None else monitor.address.text,
        "account_id": monitor.account_id,
        "account_limit": monitor.limit,
        "global_status": monitor.global_status.value,
        "status": entry.status.value,
        "state": entry.state.value,
        "health": entry.health.value,
        "gone": monitor.gone,
        "priority": entry.priority,
        "avg_step": monitor.avg_step,
        "avg_rtt_ms": monitor.avg_rtt_ms,
        "results": monitor.count,
        "violation": None if found is None else found.type.value,
        "violation_since": None if found is None else _time(found.since),
        "pause_reason": monitor.pause_reason,
        "last_constraint_check": _time(monitor.last_constraint_check),
        "labels": [label.value for label in monitor.labels],
    }


def _skipped(skipped: Skipped) -> dict[str, Any]:
    return {"id": skipped.id, "name": skipped.name, "status": skipped.pair_status, "reason": skipped.reason}


def _step(step: Step) -> dict[str, Any]:
    world = step.after
    stays = ((entry, step.rule.stays(world, entry)) for entry in world.entries if not world.moved(entry))
    return {
        "rule": step.rule.name,
        "about": step.rule.about,
        "moves": [
            {
                "monitor_id": change.monitor_id,
                "from": change.from_status.value,
                "to": change.to_status.value,
                "reason": change.reason,
            }
            for change in step.changes
        ],
        "stays": [{"monitor_id": entry.id, "reason": reason} for entry, reason in stays if reason is not None],
    }


def _names(world: World, status: PairStatus) -> list[str]:
    names = [entry.monitor.name for entry in world.entries if world.statuses[entry.id] is status]
    return names + [f"{held.name} (left out)" for held in world.held if held.pair_status is status]


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")


# ---- text ----------------------------------------------------------------------------------------------------------

_Row = dict[str, Any]
_COLUMNS: dict[str, Callable[[_Row], object]] = {
    "id": lambda row: row["id"],
    "monitor": lambda row: row["name"],
    "account": lambda row: f"{row['account_id'] or '-'}/{row['account_limit']}",
    "address": lambda row: row["ip"],
    "global": lambda row: row["global_status"],
    "status": lambda row: row["status"],
    "state": lambda row: row["state"],
    "health": lambda row: "gone" if row["gone"] else row["health"],
    "priority": lambda row: row["priority"],
    "step": lambda row: None if row["avg_step"] is None else f"{row['avg_step']:.2f}",
    "rtt ms": lambda row: None if row["avg_rtt_ms"] is None else f"{row['avg_rtt_ms']:.1f}",
    "results": lambda row: row["results"],
    "violation": lambda row: row["violation"] and f"{row['violation']} since {row['violation_since']}",
}
_LABELS: dict[str, Callable[[_Row], object]] = {"labels": lambda row: " ".join(row["labels"]) or None}
"""Column of the monitors' health labels, if any monitor has one."""


def _table(columns: dict[str, Callable[[_Row], object]], rows: Iterable[_Row]) -> list[str]:
    cells = [list(columns), *([_cell(read(row)) for read in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _step_lines(step: _Row, names: dict[int, str]) -> list[str]:
    """Format the moves one by one, and the monitors that stay grouped by reason."""
    moves = [
        f"  {names[move['monitor_id']]}: {move['from']} -> {move['to']}: {move['reason']}" for move in step["moves"]
    ]
    same: dict[str, list[str]] = {}
    for stay in step["stays"]:
        same.setdefault(stay["reason"], []).append(names[stay["monitor_id"]])
    stays = [f"  stays: {', '.join(who)}: {reason}" for reason, who in same.items()]
    return moves + stays or ["  nothing to do"]

"""Present the labels of monitors' health, as fields for people and as data for programs."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from runtime.db.monitor_health import HeldLabel


def label_fields(held: Iterable[HeldLabel]) -> list[tuple[str, str]]:
    """Return a field for each label: since when the monitor has it, and why."""
    return [(one.label.value, f"since {one.since:%Y-%m-%d %H:%M}: {one.reason}") for one in held]


def label_dicts(held: Iterable[HeldLabel]) -> list[dict[str, Any]]:
    """Return each label with its time, reason and figures."""
    return [asdict(one) for one in held]

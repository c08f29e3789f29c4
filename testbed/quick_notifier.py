"""Run ``ntppool-monitor`` with a notifier whose times are hundreds of times shorter, for tests of whole processes:
``python -m testbed.quick_notifier ARGUMENTS``."""

import runpy
from dataclasses import replace
from typing import Final

import notifier.delivery
import notifier.foundation
import notifier.rules
import notifier.schedule
import notifier.worker
from runtime.retry import Delays

FASTER: Final = 240
"""Two minutes are half a second."""


def hurry() -> None:
    """Shorten all times of this process, except those within which a sender must start and end."""
    kinds = notifier.rules.KINDS
    notifier.rules.KINDS = {  # type: ignore[misc]
        name: replace(kind, raise_after=kind.raise_after / FASTER, clear_after=kind.clear_after / FASTER)
        for name, kind in kinds.items()
    }
    for name in ("EVALUATE_EVERY", "COMPOSE_EVERY", "WATCH_EVERY", "PROBE_EVERY", "COUNT_EVERY"):
        setattr(notifier.worker, name, 0.2)
    notifier.delivery.POLL = 0.2  # type: ignore[misc]
    notifier.schedule.RETRY = Delays(first_seconds=0.2, longest_seconds=0.5)  # type: ignore[misc]
    notifier.foundation.SETTLES_WITHIN = 0.5  # type: ignore[misc]


if __name__ == "__main__":
    hurry()
    runpy.run_module("ops", run_name="__main__")

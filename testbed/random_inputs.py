"""How many random inputs a test tries: HYPOTHESIS_PROFILE chooses between fast, normal and thorough.

``scripts/test --fast`` tries a quarter of what a whole run does. In no profile has an example a time that it must keep:
how long it takes says something about the machine, not about the code.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, settings

PROFILES: Final = {"fast": 0.25, "normal": 1.0, "thorough": 10.0}
"""The share of the inputs of a normal run."""

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE") or "normal"
assert PROFILE in PROFILES, f"HYPOTHESIS_PROFILE={PROFILE}: one of {', '.join(PROFILES)}"

THOROUGH: Final = PROFILE == "thorough"


def scaled(number: int, thorough: int | None = None) -> int:
    """Return how many inputs this run tries of ``number`` in a normal one, and ``thorough`` in a thorough one."""
    if THOROUGH and thorough is not None:
        return thorough
    return max(1, round(number * PROFILES[PROFILE]))


def examples(
    number: int, *, thorough: int | None = None, suppress: Sequence[HealthCheck] = (), **others: Any
) -> settings:
    """Return the settings of a test with :func:`scaled` examples, none of which has a time that it must keep.

    Args:
        suppress: the health checks that do not apply to it, beside the one for slowness.
    """
    checks = [HealthCheck.too_slow, *suppress]
    return settings(max_examples=scaled(number, thorough), deadline=None, suppress_health_check=checks, **others)


def may_be_slow(chosen: settings) -> bool:
    """Return whether a test with these settings passes however slow the machine is."""
    return chosen.deadline is None and HealthCheck.too_slow in chosen.suppress_health_check

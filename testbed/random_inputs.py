"""Scale the number of random inputs per test: HYPOTHESIS_PROFILE selects fast, normal or thorough.

``scripts/test --fast`` tries a quarter of the inputs of a whole run. No example has a deadline in any profile: its
duration depends on the machine, not on the code.
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
    """Return the number of inputs for this run, from the ``number`` of a normal and ``thorough`` of a thorough one."""
    if THOROUGH and thorough is not None:
        return thorough
    return max(1, round(number * PROFILES[PROFILE]))


def examples(
    number: int, *, thorough: int | None = None, suppress: Sequence[HealthCheck] = (), **others: Any
) -> settings:
    """Return the settings of a test with :func:`scaled` examples and no deadline.

    Args:
        suppress: health checks that do not apply to it, in addition to the one for slowness.
    """
    checks = [HealthCheck.too_slow, *suppress]
    return settings(max_examples=scaled(number, thorough), deadline=None, suppress_health_check=checks, **others)


def may_be_slow(chosen: settings) -> bool:
    """Return whether a test with these settings passes on a machine of any speed."""
    return chosen.deadline is None and HealthCheck.too_slow in chosen.suppress_health_check

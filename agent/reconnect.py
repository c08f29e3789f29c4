"""How long to stay away from the broker after a connection was lost, and whether to probe meanwhile.

When another client comes with our name, two agents share one identity. Were both to come back at once, each would throw
the other out for ever; so we keep away for longer each time, and do not probe meanwhile.

MQTT 5 has a reason code for this, but Mosquitto before 2.0.15 just closes the connection. Then it shows by its pattern:
connections that are made without trouble and soon closed without a word, several in a row.
"""

import random
from collections.abc import Callable
from typing import Final

from runtime.mqtt.types import Lost

TAKEOVER_WAITS: Final = (120.0, 300.0, 600.0, 900.0)
"""Seconds to wait after the first, second, third and every further takeover."""

STABLE: Final = 1800.0
"""Seconds that a connection must last before earlier takeovers are forgotten."""

WAIT: Final = 10.0
"""Seconds to wait after any other loss, on average: a broker that comes back is not met by all agents at once."""

FIRST_WAIT: Final = 2.0
"""Seconds to wait at first, on average: most losses are a short interruption."""


SHORT: Final = 60.0
"""Seconds: a connection that ended sooner was cut short."""

FIGHT: Final = 3
"""Connections in a row, each cut short without a word, that mean a fight: a restarting broker refuses some between."""


class Reconnect:
    """Decides when to connect again. An instance belongs to one session."""

    def __init__(self, spread: Callable[[float, float], float] = random.uniform) -> None:
        self._spread = spread
        self._takeovers = 0
        self._cut_short = 0
        self.kept_away = False
        """Whether another agent has our identity right now, as far as we know."""

    def back_off(self, lost: Lost, failures: int) -> float:
        """Seconds to wait after a loss; ``failures`` attempts in a row did not last."""
        if lost.lasted >= STABLE:
            self._takeovers = 0
        if self._thrown_out(lost):
            wait = TAKEOVER_WAITS[min(self._takeovers, len(TAKEOVER_WAITS) - 1)]
            self._takeovers += 1
            self.kept_away = True
            return wait * self._spread(1.0, 1.1)
        return (FIRST_WAIT if failures <= 1 else WAIT) * self._spread(0.5, 1.5)

    def _thrown_out(self, lost: Lost) -> bool:
        if lost.taken_over:
            return True
        if lost.lasted == 0 or lost.lasted >= SHORT or lost.code is not None:
            self._cut_short = 0
            return False
        self._cut_short += 1
        return self._cut_short >= FIGHT or self._takeovers > 0

    def connected(self) -> None:
        """We are connected again: nobody else is, as far as the broker knows."""
        self.kept_away = False

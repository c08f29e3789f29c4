"""Decide how long to stay disconnected after a connection was lost, and whether to probe meanwhile.

If another client connects with the same name, two agents share one identity. If both reconnected at once, they would
disconnect each other forever; therefore the agent stays away for longer each time, and does not probe meanwhile.

MQTT 5 has a reason code for a takeover, but Mosquitto before 2.0.15 just closes the connection. The agent then
recognises the pattern: several successive connections that succeed and are soon closed without a reason.
"""

import random
from collections.abc import Callable
from typing import Final

from runtime.mqtt.types import Lost

TAKEOVER_WAITS: Final = (120.0, 300.0, 600.0, 900.0)
"""Seconds to wait after the first, second, third and every further takeover."""

STABLE: Final = 1800.0
"""Seconds that a connection must last to reset earlier takeovers."""

WAIT: Final = 10.0
"""Average seconds to wait after any other loss, so that not all agents reconnect to a restarted broker at once."""

FIRST_WAIT: Final = 2.0
"""Average seconds to wait at first: most losses are short interruptions."""


SHORT: Final = 60.0
"""Seconds. A shorter connection was cut short."""

UNWANTED: Final = 600.0
"""Seconds to wait after any loss while the pool does not want this monitor: its logins are refused."""

FIGHT: Final = 3
"""Successive connections cut short without a reason that indicate a takeover; a restarting broker causes fewer."""


class Reconnect:
    """Decide when to reconnect. An instance belongs to one session."""

    def __init__(self, spread: Callable[[float, float], float] = random.uniform) -> None:
        self._spread = spread
        self._takeovers = 0
        self._cut_short = 0
        self.kept_away = False
        """Another agent currently has our identity, as far as we know."""

    def back_off(self, lost: Lost, failures: int, *, unwanted: bool = False) -> float:
        """Return the seconds to wait after a loss.

        Args:
            failures: number of successive attempts that did not last.
            unwanted: the pool does not want this monitor.
        """
        if lost.lasted >= STABLE:
            self._takeovers = 0
        if self._thrown_out(lost):
            wait = TAKEOVER_WAITS[min(self._takeovers, len(TAKEOVER_WAITS) - 1)]
            self._takeovers += 1
            self.kept_away = True
            return wait * self._spread(1.0, 1.1)
        if unwanted:
            return UNWANTED * self._spread(0.9, 1.1)
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
        """Record a connection: no other agent is connected, as far as the broker knows."""
        self.kept_away = False


_LOGIN_REFUSED: Final = frozenset({0x86, 0x87})  # MQTT 5, 2.4: bad user name or password, not authorized


def refuses_credentials(lost: Lost) -> bool:
    """Return whether the broker has refused our token or our certificate, rather than the connection."""
    if lost.lasted > 0:
        return False
    # OpenSSL's names of the alerts with which a server refuses a client's certificate (RFC 8446, section 6.2).
    alert = "_ALERT_" in lost.reason and any(word in lost.reason for word in ("CERTIFICATE", "UNKNOWN_CA"))
    return lost.code in _LOGIN_REFUSED or alert

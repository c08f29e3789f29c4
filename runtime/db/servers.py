"""Choose among the servers of a ledger that has several, such as the nodes of a Galera cluster.

A process uses one server for all its connections, so that each of them sees what the others have committed. It stays
with the chosen server for as long as that one works, even if an earlier one of the DSN is back: every change costs all
connections, and a server that fails again and again would cost them again and again. A process that starts begins with
the first server of the DSN.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy.engine import URL

from runtime.db.dsn import place_of_server

AVOID_SECONDS: Final = 10.0
"""Time for which a server that has failed is tried only after all others. A connection to a server that is off takes
seconds to fail, and a worker opens several."""


class Choice:
    """The server that a process uses, and those that have failed lately.

    Servers are told apart by host and port, since passwords change. Threads may use it at the same time: the connection
    that was opened last decides.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failed: dict[str, float] = {}
        self._chosen: str | None = None

    def in_order(self, servers: Sequence[URL]) -> list[URL]:
        """Return the servers in the order in which to try them: the chosen one first, those to avoid last."""
        return sorted(servers, key=lambda server: (self._is_avoided(server), not self.is_chosen(server)))

    def is_chosen(self, server: URL) -> bool:
        """Return whether this is the server to use."""
        return self._chosen == place_of_server(server)

    def choose(self, server: URL) -> bool:
        """Use this server from now on; return whether that is a change."""
        place = place_of_server(server)
        changed, self._chosen = self._chosen != place, place
        self._failed.pop(place, None)
        return changed

    def failed(self, server: URL) -> None:
        """Record that this server cannot be used now."""
        self._failed[place_of_server(server)] = self._monotonic()

    def _is_avoided(self, server: URL) -> bool:
        since = self._failed.get(place_of_server(server))
        return since is not None and self._monotonic() - since < AVOID_SECONDS

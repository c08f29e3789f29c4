"""Limit failed logins by network, in memory.

A key has 256 random bits, so the limit does not protect keys: it bounds the work that strangers cause, in the ledger
and at the provider. For this, each process may count for itself, and forget when it ends; a count in the ledger would
let strangers write there.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MOST: Final = 10
"""Maximum failed logins from one network within :data:`WITHIN_SECONDS`."""

WITHIN_SECONDS: Final = 600.0


class LoginLimit:
    """The recent failed logins of each network. Thread-safe.

    Args:
        networks: number of networks to remember; beyond it, those that tried longest ago are forgotten.
        clock: returns monotonic seconds.
    """

    def __init__(self, *, networks: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._networks = networks
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, network: str) -> bool:
        """Count a login as failed until it has succeeded; return whether it may be tried at all."""
        now = self._clock()
        with self._lock:
            times = self._failed.setdefault(network, deque(maxlen=MOST))
            self._failed.move_to_end(network)
            while times and now - times[0] >= WITHIN_SECONDS:
                times.popleft()
            allowed = len(times) < MOST
            if allowed:
                times.append(now)
            while len(self._failed) > self._networks:
                self._failed.popitem(last=False)
            return allowed

    def succeeded(self, network: str) -> None:
        """Take back the latest login of a network."""
        with self._lock:
            times = self._failed.get(network)
            if times:
                times.pop()
            if times is not None and not times:
                del self._failed[network]

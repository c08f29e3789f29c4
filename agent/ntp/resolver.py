"""Resolve names with a time limit.

The system's resolver blocks its thread, for up to half a minute if no name server answers. Each look-up therefore has
its own daemon thread, and their number is limited: a resolver that hangs blocks these, and no more.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from runtime.log import OngoingWarning
from runtime.threads import in_thread
from schema.names import IpVersion

log = logging.getLogger(__name__)

MAX_LOOKUPS: Final = 4
"""Maximum number of concurrent look-ups, including those that have timed out."""

WITHIN: Final = 5.0
"""Maximum seconds for a look-up."""

MAX_ADDRESSES: Final = 3
"""Number of addresses of a name that are used: the first ones that the resolver returns."""

REMEMBERED_FOR: Final = 86400.0
"""Seconds for which the last answer is used when the resolver does not answer."""

_MAX_REMEMBERED: Final = 64

_FAMILIES: Final[dict[IpVersion, int]] = {"v4": socket.AF_INET, "v6": socket.AF_INET6}

_NO_ADDRESS: Final = frozenset(
    number for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if (number := getattr(socket, name, None))
)
"""Errors that are an answer: the name does not exist, or has no address of this family."""


class LookupFailed(Exception):
    """The name has no addresses; the message gives the reason."""


class Resolver:
    """Use the host's resolver for the whole process.

    Args:
        getaddrinfo: performs the look-up; called in a thread.
        clock: monotonic seconds.
    """

    def __init__(
        self, getaddrinfo: Callable[..., Any] = socket.getaddrinfo, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._getaddrinfo = getaddrinfo
        self._clock = clock
        self._free = asyncio.Semaphore(MAX_LOOKUPS)
        self._remembered: dict[tuple[str, IpVersion], tuple[float, list[str]]] = {}
        self._trouble = OngoingWarning(log)

    async def addresses(self, host: str, ipv: IpVersion) -> list[str]:
        """Return the current addresses of ``host``, or the last known ones if they are less than a day old.

        Raises:
            LookupFailed: it has no address, or the resolver does not answer.
        """
        try:
            found = await self._ask(host, ipv)
        except socket.gaierror as error:
            if error.errno in _NO_ADDRESS:
                self._remembered.pop((host, ipv), None)
                raise LookupFailed(f"has no IP{ipv} address") from None
            return self._last(host, ipv, error.strerror or "the resolver failed")
        except TimeoutError:
            return self._last(host, ipv, f"the resolver did not answer within {WITHIN:g} s")
        except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError also if no thread can be started
            return self._last(host, ipv, str(error))
        self._trouble.over()
        self._remember(host, ipv, found)
        return found

    async def _ask(self, host: str, ipv: IpVersion) -> list[str]:
        async with asyncio.timeout(WITHIN):
            await self._free.acquire()
            asked = asyncio.ensure_future(in_thread(partial(self._look_up, host, ipv), f"look up {host}"))
            asked.add_done_callback(self._looked_up)
            return await asyncio.shield(asked)

    def _look_up(self, host: str, ipv: IpVersion) -> list[str]:
        """Resolve the name; runs in a thread."""
        # As bytes: for a text, Python would load the tables of international names, which take a megabyte.
        entries = self._getaddrinfo(host.encode("ascii"), None, _FAMILIES[ipv], socket.SOCK_DGRAM)
        return list(dict.fromkeys(entry[4][0] for entry in entries))[:MAX_ADDRESSES]

    def _looked_up(self, asked: asyncio.Future[list[str]]) -> None:
        """Free the slot of a finished look-up, and retrieve its error, since its caller may have timed out."""
        self._free.release()
        if not asked.cancelled():
            asked.exception()

    def _remember(self, host: str, ipv: IpVersion, found: list[str]) -> None:
        self._remembered.pop((host, ipv), None)
        self._remembered[host, ipv] = self._clock(), found
        while len(self._remembered) > _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _last(self, host: str, ipv: IpVersion, why: str) -> list[str]:
        at, addresses = self._remembered.get((host, ipv), (0.0, []))
        if not addresses or self._clock() - at > REMEMBERED_FOR:
            raise LookupFailed(why)
        self._trouble.warning("names cannot be resolved, continuing with their last addresses: %s", why)
        return addresses

"""Inject certificate faults: the broker shows a certificate that every client must refuse, then the right one again."""

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from auth.ca.contents import SERVER, Draft, issued, leaf_certificate
from auth.ca.files import FileAuthority
from auth.ca.hosts import general_names
from auth.ca.request import new_key
from bench.faults.plan import LINKS, Planned
from bench.faults.rig import BROKER, Rig
from testbed.checker.difference import Difference
from testbed.ports import loopback_addresses
from testbed.stack import CannotRun
from testbed.tls import Certificate, LocalCa

_SHOWN_WITHIN: Final = 10.0
_LOOK_EVERY: Final = 0.05
_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
_LOGIN: Final = re.compile(r"^New client connected from \S+ as (\S+)", re.MULTILINE)
"""A login in Mosquitto's log."""


class WrongCertificate:
    """The broker shows a certificate that every client must refuse."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig = rig
        self._planned = planned
        self._began: int | None = None
        self._broker = rig.site.broker
        self._wrong = _wrong(planned.kind, rig.fault_site.authority)
        self.touches = frozenset({BROKER, *LINKS[:2]})

    async def begin(self) -> None:
        await self._show(self._wrong)
        # The broker logs one login before it serves the next, so a later login shows that the log is complete.
        await asyncio.to_thread(self._is_shown, self._wrong)
        self._began = len(self._log())

    async def end(self) -> None:
        if self._began is not None:
            names = set(_LOGIN.findall(self._log(), self._began))
            self._rig.differences.extend(Difference("trusted", f"{name}, {self._planned}") for name in sorted(names))
        await self._show(self._broker.certificate)

    def _log(self) -> str:
        return (self._rig.site.logs / f"{BROKER}.log").read_text(encoding="utf-8", errors="replace")

    async def _show(self, certificate: Certificate) -> None:
        """Wait until the broker shows the certificate, then make every client reconnect.

        Raises:
            CannotRun: the broker does not show it in time.
        """
        self._broker.show(certificate)
        await self._rig.reload_broker()
        deadline = time.monotonic() + _SHOWN_WITHIN
        while not await asyncio.to_thread(self._is_shown, certificate):
            if time.monotonic() > deadline:
                raise CannotRun(f"the broker did not show the new certificate within {_SHOWN_WITHIN:g} s")
            await asyncio.sleep(_LOOK_EVERY)
        for link in LINKS[:2]:
            await self._rig.links[link].cut()

    def _is_shown(self, certificate: Certificate) -> bool:
        address = self._rig.site.broker_address
        with suppress(OSError):
            shown = ssl.get_server_certificate((address.host, address.port), timeout=_SHOWN_WITHIN)
            return shown.split() == certificate.certificate.split()
        return False


def _wrong(kind: str, authority: FileAuthority) -> Certificate:
    now = datetime.now(UTC)
    match kind:
        case "certificate of another CA":
            return LocalCa().issue(*loopback_addresses())
        case "certificate of another host":
            return _signed(authority, ["broker.example", "192.0.2.1"], now, _DAY)
        case "expired certificate":
            return _signed(authority, loopback_addresses(), now - 2 * _MINUTE, _MINUTE)
    raise ValueError(kind)


def _signed(authority: FileAuthority, hosts: Sequence[str], begins: datetime, lifetime: timedelta) -> Certificate:
    """Sign a server's certificate as the CA would have done it at another time."""
    made = new_key()
    draft = Draft(made.request.public_key, general_names(hosts), [SERVER], begins, lifetime)
    signer = authority.roots()[0].signer
    return Certificate(issued(leaf_certificate(draft, signer), []).chain, made.key)

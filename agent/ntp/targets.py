"""Decide which addresses an agent may probe. The assignments come from the pool; the network belongs to the host."""

import ipaddress
import re
from typing import Final

import msgspec

from schema.addresses import why_not_public
from schema.names import Environment, IpVersion

NTP_PORT: Final = 123
FAMILY_OF: Final[dict[int, IpVersion]] = {4: "v4", 6: "v6"}


class TargetRefused(ValueError):
    """The address may not be probed; the message gives the reason."""


class NoAddress(TargetRefused):
    """The text is not an address."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """An address that may be probed."""

    ip: str
    """In the operating system's notation."""
    port: int
    ipv: IpVersion

    def __str__(self) -> str:
        if self.port == NTP_PORT:
            return self.ip
        return f"[{self.ip}]:{self.port}" if self.ipv == "v6" else f"{self.ip}:{self.port}"


class HostName(msgspec.Struct, frozen=True, gc=False):
    """A server that is given by its name."""

    host: str
    port: int

    def __str__(self) -> str:
        return self.host if self.port == NTP_PORT else f"{self.host}:{self.port}"


class TargetRules(msgspec.Struct, frozen=True, gc=False):
    """The rules for the addresses that this agent may probe."""

    env: Environment
    allow_private: bool = False
    """Allowed in ``devel`` only, where simulated servers have loopback addresses."""

    def check(self, ip: str, port: int = NTP_PORT, ipv: IpVersion | None = None) -> Target:
        """Return the target at ``ip`` and ``port``, which must be of protocol ``ipv`` unless that is ``None``.

        Raises:
            TargetRefused: it is not an address, of the other protocol, not public, or the port is not 123.
        """
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            raise NoAddress(f"{ip[:64]!r} is not an IP address") from None
        family = FAMILY_OF[address.version]
        if ipv is not None and family != ipv:
            raise TargetRefused(f"{address} is not an IP{ipv} address")
        if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
            raise TargetRefused(f"{address} is an IPv4 address or bound to an interface")
        self._check_port(str(address), port)
        if not self._may_be_private and (kind := why_not_public(address)):
            raise TargetRefused(f"{address} is not a public address: {kind}")
        if address.is_multicast or address.is_unspecified:
            raise TargetRefused(f"{address} is not the address of one host")
        return Target(str(address), port, family)

    def parse(self, text: str, ipv: IpVersion | None = None) -> Target:
        """Parse a target written as ``address``, ``address:port`` or ``[address]:port``.

        Raises:
            TargetRefused: as for :meth:`check`, or it has none of these forms.
        """
        ip, port = _split_port(text)
        return self.check(ip, port, ipv)

    def parse_or_name(self, text: str, ipv: IpVersion | None = None) -> Target | HostName:
        """Parse like :meth:`parse`, or a host written as ``name`` or ``name:port``, whose addresses must then be
        checked.

        Raises:
            TargetRefused: it is neither.
        """
        host, port = _split_port(text)
        if _is_name(host):
            self._check_port(host, port)
            return HostName(host.lower(), port)
        try:
            return self.check(host, port, ipv)
        except NoAddress:
            raise TargetRefused(f"{text[:80]!r} is neither an IP address nor a host name") from None

    def _check_port(self, host: str, port: int) -> None:
        if port != NTP_PORT and self.env != "devel":
            raise TargetRefused(f"{host} port {port}: ports other than 123 are allowed in devel only")

    @property
    def _may_be_private(self) -> bool:
        return self.allow_private and self.env == "devel"


_NAME: Final = re.compile(r"(?:\w(?:[\w-]{0,61}\w)?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\.?", re.ASCII | re.IGNORECASE)
"""A name whose last label begins with a letter. Otherwise the resolver would take ``127.1`` for an address."""


def _is_name(host: str) -> bool:
    return len(host) <= 254 and _NAME.fullmatch(host) is not None


def _split_port(text: str) -> tuple[str, int]:
    if text.startswith("["):
        ip, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest.startswith(":") else ("" if bracket and not rest else "?")
    elif text.count(":") == 1:
        ip, _, port = text.partition(":")
        port = port or "?"
    else:
        ip, port = text, ""
    if not port:
        return ip, NTP_PORT
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise TargetRefused(f"{text[:80]!r} must be an address, address:port or [address]:port")
    return ip, int(port)

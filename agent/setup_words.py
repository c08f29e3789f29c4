"""Say what a registration has changed, and what is wrong with this host's clock. Pure."""

import ipaddress
from collections.abc import Mapping
from typing import Final

from agent.api_messages import ConfigAnswer, ProtocolAnswer
from agent.state import StateFile
from runtime.durations import duration_text
from schema.messages import LIVE
from schema.names import IpVersion

CLOCK_TOLERANCE: Final = 60.0
"""Difference between this host's clock and the API's, in seconds, from which it is reported."""


def changes(former: StateFile, before: ConfigAnswer | None, now: ConfigAnswer | None, *, new_key: bool) -> list[str]:
    """Return what a successful run has changed, as lines of text.

    Args:
        before: what the API said about the monitor with the former key.
        now: what it says with the present key; ``None`` if it could not be asked.
    """
    key = "the API key was renewed" if former.api is not None and new_key else "the API key is stored"
    lines = [key if new_key else "the API key is unchanged"]
    if now is None:
        return [*lines, "the API could not be asked for the configuration; the agent asks again by itself"]
    name = now.tls_name
    old_name = before.tls_name if before is not None else former.name
    lines.append(f"the name is now {name}, formerly {old_name}" if old_name not in (None, name) else f"monitor {name}")
    known = _known_addresses(former, before)
    lines += [
        f"IP{ipv} {protocol.ip}: {protocol.status}{_change(known, ipv, protocol)}"
        for ipv, protocol in now.protocols.items()
    ]
    lines += [f"IP{ipv} {ip}: not registered any more" for ipv, ip in known.items() if ipv not in now.protocols]
    return [*lines, *outlook(now)]


def _known_addresses(former: StateFile, before: ConfigAnswer | None) -> dict[IpVersion, str | None]:
    if before is not None:
        return {ipv: protocol.ip for ipv, protocol in before.protocols.items()}
    return {ipv: registered.ip for ipv, registered in former.protocols.items()}


def _change(known: Mapping[IpVersion, str | None], ipv: IpVersion, protocol: ProtocolAnswer) -> str:
    if not known or known.get(ipv) == protocol.ip:
        return ""
    return f", formerly {known[ipv]}" if ipv in known else ", added"


def outlook(now: ConfigAnswer) -> list[str]:
    """Return what the pool has yet to do before this monitor measures; nothing if it measures."""
    statuses = {protocol.status for protocol in now.protocols.values()}
    if not statuses or not statuses.isdisjoint(LIVE):
        return []
    if "pending" in statuses:
        return ["the pool has yet to approve this monitor; the agent waits for that and then starts to measure"]
    return [f"the pool does not let this monitor measure now: its status is {' and '.join(sorted(statuses))}"]


def address_line(seen_as: str, registered: Mapping[IpVersion, str]) -> str:
    """Return what to say if the API sees this host at another place than is registered; empty if it does not.

    An address of IPv6 changes within its /64 on many hosts, which is no move.

    Args:
        seen_as: the address, whatever the API has sent.
        registered: addresses by protocol.
    """
    try:
        seen = ipaddress.ip_address(seen_as)
        known = ipaddress.ip_address(registered.get("v4" if seen.version == 4 else "v6", ""))
    except ValueError:
        return ""
    if getattr(seen, "scope_id", None):  # which may be any text
        return ""
    if seen in ipaddress.ip_network(f"{known}/{32 if known.version == 4 else 64}", strict=False):
        return ""
    return (
        f"the API sees this host as {seen}, and {known} is registered: if the host has moved, run "
        "'ntppool-agent setup'; if it has several addresses, set MONITOR_API_BIND"
    )


def clock_line(skew: float) -> str:
    """Describe the difference between this host's clock and the API's, in seconds; positive if ours is ahead."""
    direction = "ahead of" if skew > 0 else "behind"
    return (
        f"this host's clock is {duration_text(round(abs(skew) / 60) * 60)} {direction} the API's; "
        "a monitor measures with its clock: set it, for example by installing chrony"
    )

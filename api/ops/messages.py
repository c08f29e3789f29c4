"""Define the JSON that operators' programs read. Times are RFC 3339 in UTC; durations are seconds."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel

from api.ops.agents import Agent, Protocol
from api.ops.check import Finding, Plan
from api.ops.kept_routes import KeptRoute
from runtime.db.engine import from_db
from runtime.printable import printable_json

METRICS_PATH: Final = "/ops/monitors/metrics"


class OnlineProtocol(BaseModel):
    """One protocol of a connected monitor."""

    address: str | None
    status: str
    """Global status, as the ledger has it."""
    probing: bool | None
    """As the agent says; null if it says nothing of this protocol."""
    why_not: str | None
    """Why it does not probe, as the agent says."""
    assignments: int | None
    last_results: datetime | None


class OnlineMonitor(BaseModel):
    """A monitor that is connected."""

    name: str
    account: str | None
    location: str
    version: str
    online_since: datetime | None
    last_seen: datetime | None
    """Arrival of its last status, which it repeats every five minutes."""
    spool_batches: int
    traceroute: bool
    """It can trace routes, as its agent says."""
    protocols: dict[str, OnlineProtocol]


class TargetGroup(BaseModel):
    """A target of Prometheus, as its HTTP service discovery reads it."""

    targets: list[str]
    labels: dict[str, str]


def online_monitor(agent: Agent) -> OnlineMonitor:
    """Return what is shown of a connected agent."""
    return OnlineMonitor(
        name=agent.name,
        account=agent.account,
        location=agent.location,
        version=agent.version,
        online_since=_aware(agent.since),
        last_seen=_aware(agent.seen),
        spool_batches=agent.spool.batches,
        traceroute=agent.traceroute,
        protocols={ipv: _online_protocol(one) for ipv, one in agent.protocols.items()},
    )


def _online_protocol(protocol: Protocol) -> OnlineProtocol:
    state = protocol.state
    return OnlineProtocol(
        address=protocol.address,
        status=protocol.status,
        probing=None if state is None else state.probing,
        why_not=None if state is None else state.why_not,
        assignments=None if state is None else state.assignments,
        last_results=_aware(protocol.last_results),
    )


def target_group(agent: Agent, url: str) -> TargetGroup:
    """Return an agent as a target, whose metrics are to be fetched from the API at ``url``."""
    parts = urlsplit(url)
    statuses = {f"__meta_ntppool_status_{ipv}": one.status for ipv, one in agent.protocols.items()}
    labels = {
        "__scheme__": parts.scheme,
        "__metrics_path__": parts.path.rstrip("/") + METRICS_PATH,
        "__param_name": agent.name,
        "instance": agent.name,
        "__meta_ntppool_account": agent.account or "",
        "__meta_ntppool_location": agent.location,
        "__meta_ntppool_version": agent.version,
        **statuses,
    }
    return TargetGroup(targets=[parts.netloc], labels=labels)


def as_json_list(models: Sequence[BaseModel]) -> str:
    """Return models as a JSON list, in ASCII without control characters, since agents wrote some of it."""
    return printable_json([model.model_dump(mode="json") for model in models])


def plan_line(plan: Plan) -> str:
    """Return the first line of a check's answer: what is measured, and by whom."""
    wanted = plan.wanted
    asked = [{"monitor": one.name, "usual_rtt": one.usual_rtt} for one in plan.chosen]
    about = {"check": wanted.kind, "ip": wanted.target.ip, "port": plan.port, "server_id": plan.server_id}
    packets = {"samples": wanted.samples} if wanted.kind == "ntp" else {}
    return printable_json({**about, **packets, "asked": asked})


def finding_line(finding: Finding) -> str:
    """Return what one monitor found, as a line of JSON."""
    return printable_json(finding_fields(finding))


def finding_fields(finding: Finding) -> Mapping[str, Any]:
    """Return what one monitor found, for JSON."""
    result = None if finding.result is None else msgspec.to_builtins(finding.result)
    if result is not None:
        del result["server_id"]  # the agent does not know it
    traces = {} if finding.traces is None else {"traces": msgspec.to_builtins(finding.traces)}
    said = {} if finding.said is None else {"said": f"{finding.monitor} {finding.said}"}
    return {"monitor": finding.monitor, "usual_rtt": finding.usual_rtt, "result": result, **traces, **said}


def end_line(plan: Plan, found: int, kept: int = 0) -> str:
    """Return the last line of a check's answer, without which it is not complete.

    Args:
        found: how many monitors measured, or traced the route.
        kept: how many routes were stored.
    """
    asked = len(plan.chosen) + len(plan.unfit)
    if plan.wanted.kind == "traceroute":
        return printable_json({"asked": asked, "traced": found, "kept": kept})
    return printable_json({"asked": asked, "measured": found})


def kept_route_fields(kept: KeptRoute) -> Mapping[str, Any]:
    """Return a route that was stored, for JSON."""
    return {
        "monitor": kept.monitor,
        "ip": kept.ip,
        "traced_on": from_db(kept.traced_on).isoformat().replace("+00:00", "Z"),
        "answered": kept.answered,
        "traces": msgspec.to_builtins(kept.traces),
    }


def kept_routes_json(kept: Sequence[KeptRoute]) -> str:
    """Return stored routes as a JSON list, in ASCII without control characters."""
    return printable_json([kept_route_fields(one) for one in kept])


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else from_db(moment)

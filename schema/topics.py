"""Build and parse every topic of the system in one place.

A topic belongs to one environment, and the monitor's name in it is the sender's identity: the broker lets a monitor
publish below its own name only, so a name inside a payload is never needed and never trusted.
"""

from dataclasses import dataclass
from typing import Final, Literal, cast

from schema.names import IP_VERSIONS, Environment, IpVersion

Kind = Literal[
    "status",
    "api-test",
    "config",
    "assignments",
    "results",
    "acks",
    "requests",
    "data",
    "control",
    "service-control",
]

ANY: Final = "+"
"""The wildcard for one monitor, protocol or server in a topic filter."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed topic. ``rest`` is the part after name and protocol: a server id, a check, an answer's id."""

    kind: Kind
    name: str
    ipv: IpVersion | None = None
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one environment. Pass :data:`ANY` for a part to get a topic filter."""

    env: Environment

    @property
    def everything(self) -> str:
        """Return the filter for all topics of this environment."""
        return f"/{self.env}/#"

    def status(self, name: str) -> str:
        """Return the topic of an agent's retained presence and its last will."""
        return f"/{self.env}/monitors/status/{name}/status"

    def api_test(self, name: str) -> str:
        """Return the topic of the agent's connection test."""
        return f"/{self.env}/monitors/status/{name}/api-test"

    def config(self, name: str) -> str:
        """Return the topic of an agent's retained configuration."""
        return f"/{self.env}/monitors/config/{name}"

    def assignment(self, name: str, ipv: IpVersion | Literal["+"], server_id: int | Literal["+"]) -> str:
        """Return the topic of one retained assignment; an empty payload removes it."""
        return f"/{self.env}/monitors/assignments/{name}/{ipv}/{server_id}"

    def assignments(self, name: str) -> str:
        """Return the filter for all assignments of a monitor."""
        return f"/{self.env}/monitors/assignments/{name}/#"

    def results(self, name: str, ipv: IpVersion | Literal["+"]) -> str:
        """Return the topic of batches of results."""
        return f"/{self.env}/monitors/results/{name}/{ipv}"

    def acks(self, name: str, ipv: IpVersion | Literal["+"]) -> str:
        """Return the topic of acknowledgements of batches."""
        return f"/{self.env}/monitors/acks/{name}/{ipv}"

    def request(self, name: str, check: str) -> str:
        """Return the topic of ad hoc requests to an agent."""
        return f"/{self.env}/monitors/requests/{name}/{check}"

    def data(self, name: str, answer_id: str) -> str:
        """Return the topic of the answer to an ad hoc request."""
        return f"/{self.env}/monitors/data/{name}/{answer_id}"

    def monitor_control(self, name: str) -> str:
        """Return the topic of control commands to an agent."""
        return f"/{self.env}/monitors/control/{name}"

    def service_control(self, service: str) -> str:
        """Return the topic of control commands to a service."""
        return f"/{self.env}/control/{service}"

    @property
    def revocations(self) -> str:
        """Return the topic of orders to the broker to refuse a monitor's tokens."""
        return f"/{self.env}/control/broker/revocations"

    def plugin_check(self, client_id: str) -> str:
        """Return the topic below which a worker publishes to itself, to find out whether the broker has our plugin."""
        return f"/{self.env}/control/broker/check/{client_id}"

    def answers(self, operator: str, order: str) -> str:
        """Return the topic of workers' answers to one control command, which is its response topic."""
        return f"/{self.env}/answers/{operator}/{order}"

    def result_event(self, server_id: int) -> str:
        """Return the topic of the live stream of committed results."""
        return f"/{self.env}/events/results/{server_id}"

    def score_event(self, server_id: int) -> str:
        """Return the topic of the live stream of computed scores."""
        return f"/{self.env}/events/scores/{server_id}"

    def assignment_event(self, server_id: int) -> str:
        """Return the topic of the live stream of changes of a server's monitors."""
        return f"/{self.env}/events/assignments/{server_id}"

    @property
    def rejected_event(self) -> str:
        """Return the topic of the live stream of undecodable messages."""
        return f"/{self.env}/events/rejected"

    def echo(self, client_id: str) -> str:
        """Return the topic on which a session publishes to itself: when the echo returns, all earlier messages have
        arrived."""
        return f"/{self.env}/echo/{client_id}"

    def parse(self, topic: str) -> Address | None:
        """Parse a topic; return ``None`` if it does not belong to this environment (events are not parsed)."""
        match topic.split("/"):
            case ["", self.env, "monitors", kind, name, *rest] if name:
                return _parse_monitor(kind, name, rest)
            case ["", self.env, "control", service] if service:
                return Address("service-control", service)
        return None


def _parse_monitor(kind: str, name: str, rest: list[str]) -> Address | None:
    match kind, rest:
        case "status", [("status" | "api-test") as what]:
            return Address(cast(Kind, what), name)
        case (("config" | "control"), []):
            return Address(cast(Kind, kind), name)
        case "assignments", [ipv, server_id] if ipv in IP_VERSIONS and server_id.isascii() and server_id.isdigit():
            return Address("assignments", name, ipv, server_id)
        case (("results" | "acks"), [ipv]) if ipv in IP_VERSIONS:
            return Address(cast(Kind, kind), name, ipv)
        case (("requests" | "data"), [what]) if what:
            return Address(cast(Kind, kind), name, rest=what)
    return None


def shared(group: str, topic_filter: str) -> str:
    """Return the shared form of a filter: the sessions of ``group`` share its messages."""
    return f"$share/{group}/{topic_filter}"


def unshared(topic_filter: str) -> str:
    """Return the plain form of a shared filter; other filters are unchanged."""
    if topic_filter.startswith("$share/"):
        return topic_filter.split("/", 2)[2]
    return topic_filter

"""Every topic of the system, built and taken apart in one place.

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
"""Stands for any one monitor, protocol or server when a topic is used as a filter."""


@dataclass(frozen=True, slots=True)
class Address:
    """A topic, taken apart. ``rest`` is what follows name and protocol: a server id, a check, an answer's id."""

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
        """Filter: all that belongs to this environment."""
        return f"/{self.env}/#"

    def status(self, name: str) -> str:
        """Retained presence of an agent, and its last will."""
        return f"/{self.env}/monitors/status/{name}/status"

    def api_test(self, name: str) -> str:
        """The agent's "api ok" test."""
        return f"/{self.env}/monitors/status/{name}/api-test"

    def config(self, name: str) -> str:
        """Retained settings of an agent."""
        return f"/{self.env}/monitors/config/{name}"

    def assignment(self, name: str, ipv: IpVersion | Literal["+"], server_id: int | Literal["+"]) -> str:
        """One retained assignment; an empty payload removes it."""
        return f"/{self.env}/monitors/assignments/{name}/{ipv}/{server_id}"

    def assignments(self, name: str) -> str:
        """Filter: all assignments of a monitor."""
        return f"/{self.env}/monitors/assignments/{name}/#"

    def results(self, name: str, ipv: IpVersion | Literal["+"]) -> str:
        """Batches of results."""
        return f"/{self.env}/monitors/results/{name}/{ipv}"

    def acks(self, name: str, ipv: IpVersion | Literal["+"]) -> str:
        """What became of a batch."""
        return f"/{self.env}/monitors/acks/{name}/{ipv}"

    def request(self, name: str, check: str) -> str:
        """An ad hoc request to an agent."""
        return f"/{self.env}/monitors/requests/{name}/{check}"

    def data(self, name: str, answer_id: str) -> str:
        """The answer to an ad hoc request."""
        return f"/{self.env}/monitors/data/{name}/{answer_id}"

    def monitor_control(self, name: str) -> str:
        """Orders to an agent."""
        return f"/{self.env}/monitors/control/{name}"

    def service_control(self, service: str) -> str:
        """Orders to a worker."""
        return f"/{self.env}/control/{service}"

    def answers(self, operator: str, order: str) -> str:
        """Where the workers answer one order of an operator: the response topic of its control message."""
        return f"/{self.env}/answers/{operator}/{order}"

    def result_event(self, server_id: int) -> str:
        """Live stream: a result was committed."""
        return f"/{self.env}/events/results/{server_id}"

    def score_event(self, server_id: int) -> str:
        """Live stream: a server's score was computed."""
        return f"/{self.env}/events/scores/{server_id}"

    def assignment_event(self, server_id: int) -> str:
        """Live stream: a server's monitors changed."""
        return f"/{self.env}/events/assignments/{server_id}"

    @property
    def rejected_event(self) -> str:
        """Live stream: a message was refused."""
        return f"/{self.env}/events/rejected"

    def echo(self, client_id: str) -> str:
        """Below this a session talks to itself: when its word comes back, all that the broker had for it has come."""
        return f"/{self.env}/echo/{client_id}"

    def parse(self, topic: str) -> Address | None:
        """``topic`` taken apart, or None when it is none of this environment's (events are not taken apart)."""
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
    """The shared form of a filter: the sessions of ``group`` split its messages among them."""
    return f"$share/{group}/{topic_filter}"


def unshared(topic_filter: str) -> str:
    """The filter itself when it is a shared one, else unchanged."""
    if topic_filter.startswith("$share/"):
        return topic_filter.split("/", 2)[2]
    return topic_filter

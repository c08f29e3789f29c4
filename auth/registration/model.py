"""Define the values of a registration: what a host asks, what it is answered, and what people see and decide. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from auth.api_keys import KeyText
from auth.registration.secret import RegistrationId
from schema.messages import MonitorStatus
from schema.names import IpVersion

CONFIRM_PATH: Final = "/manage/monitors/confirm/"

CONFIRM_WITHIN: Final = timedelta(hours=24)
"""Time after which a registration that nobody confirmed ends, and a confirmed one whose host does not come back."""

REPEAT_FOR: Final = timedelta(minutes=10)
"""Time for which the answer with the key is repeated, since any answer may be lost."""

MOST_AN_HOUR: Final = 10
"""Maximum registrations per hour from one IPv4 address, or from one /64 of IPv6."""

MOST_UNCONFIRMED: Final = 3
"""Maximum unconfirmed registrations for one account."""

Status = Literal["pending", "accepted", "completed", "rejected", "cancelled"]
"""A registration waits for a person (pending), for its host to fetch the key (accepted), for nothing (completed), or
has ended without a key: refused by a person, or too old."""


class Refusal(StrEnum):
    """The kind of a refusal, for counters and statistics."""

    MALFORMED = "malformed"
    ADDRESS = "address"
    TOO_MANY = "too_many"
    ACCOUNT = "account"
    OTHER_ADDRESS = "other_address"
    ENDED = "ended"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a host. All texts but the peer's address come from the request, and may be anything."""

    registration: RegistrationId
    peer: str
    """The address of the connection, never one that the request contains."""
    hostname: str = ""
    account_token: str = ""
    user_agent: str = ""
    monitor_ids: tuple[int, ...] = ()
    """The monitors of the valid API key that the request showed; empty without one."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Someone must open the page at ``path`` and confirm."""

    path: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The registration is confirmed: the host must store the key. Its text is in no repr."""

    path: str
    key: KeyText
    name: str
    """The monitor's full name."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The key was handed out before, and is no longer repeated. ``advice`` says what to do without it."""

    path: str
    advice: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The registration is refused or has ended; ``sentence`` is for the host, and says what to do."""

    kind: Refusal
    sentence: str


Answer = Pending | Accepted | Completed | Refused


@dataclass(frozen=True, slots=True)
class State:
    """What the ledger knows of a registration when a request for it arrives."""

    status: Status
    created_on: datetime
    ip4: str
    ip6: str
    decided_on: datetime | None = None
    handed_on: datetime | None = None
    reason: str = ""

    def address(self, ipv: IpVersion) -> str:
        """Return its address of a protocol; empty if unknown."""
        return self.ip4 if ipv == "v4" else self.ip6

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses, at most one for each protocol."""
        return tuple(filter(None, (self.ip4, self.ip6)))


class Outcome(StrEnum):
    """What becomes of a monitor that has one of the registration's addresses already."""

    NEW_KEY = "new-key"
    """It is the same host: the monitor keeps its name, and gets a new key."""
    NEW_NAME = "new-name"
    """It is another host: it gets a new name, and the old monitor is set aside."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a registration is confirmed for, as far as the rules need it."""

    id: int
    token: str
    monitors: int
    """Number of its monitors that are not deleted; each protocol counts."""
    monitor_limit: int | None
    monitor_enabled: bool


@dataclass(frozen=True, slots=True)
class KnownMonitor:
    """A monitor in the ledger: one protocol of a host."""

    id: int
    name: str
    ipv: IpVersion
    ip: str | None
    account_id: int | None
    status: MonitorStatus


@dataclass(frozen=True, slots=True)
class Confirmer:
    """The person who confirms or rejects, whom the caller has authenticated."""

    label: str
    """For the record, such as ``operator`` or an email address."""
    account_ids: frozenset[int] = frozenset()
    """The accounts that the person may act for."""
    user_id: int | None = None
    operator: bool = False
    """May act for every account, and take an address from a monitor of another account."""

    def may_act_for(self, account_id: int | None) -> bool:
        """Return whether the person may change what belongs to the account."""
        return self.operator or (account_id is not None and account_id in self.account_ids)


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes of ``monitors`` that a confirmation makes."""

    name: str
    insert: Mapping[IpVersion, str] = field(default_factory=dict)
    """Addresses of the protocols to add."""
    update: Mapping[int, str] = field(default_factory=dict)
    """New addresses of monitors, by id; deleted ones live again."""
    revive: frozenset[int] = frozenset()
    set_aside: frozenset[int] = frozenset()
    """Monitors that lose their address, and are deleted."""
    status: MonitorStatus = "pending"
    """Of added and revived ones."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A person's action is refused; ``sentence`` is for that person."""

    sentence: str
    choose: tuple[Outcome, ...] = ()
    """The outcomes to choose from, if a choice is missing."""
    about: Literal["", "account", "location", "outcome"] = ""
    """What of the person's choice must change; empty if no other choice would help."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The registration is confirmed, and its host will get its key at its next request."""

    name: str
    replaced: tuple[str, ...] = ()
    """Names of monitors that were set aside; their sessions at the broker must be ended."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The registration is rejected; its host is told so at its next request."""


@dataclass(frozen=True, slots=True)
class Warned:
    """An address of a registration that belongs to a monitor already."""

    ip: str
    name: str | None
    """``None`` if the monitor is not the viewer's to see."""
    may_keep_name: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A registration as its page and operators see it. Times have a zone."""

    id: int
    verification_token: str
    status: Status
    ip4: str
    ip6: str
    hostname: str
    client: str
    account_id: int | None
    """The account of ``-a``, or of the key; later that of the confirmation."""
    name: str
    """The monitor's name once confirmed, or that of the host's key before."""
    renews: bool
    """The host showed the key of a monitor, which keeps its name and account."""
    created_on: datetime
    expires_on: datetime
    last_seen: datetime
    reason: str
    decided_by: str
    warnings: tuple[Warned, ...] = ()
    choose: tuple[Outcome, ...] = ()
    """The outcomes that the person may choose from; empty if there is nothing to choose."""
    handed_on: datetime | None = None
    """When the host got its key; ``None`` if it has not."""

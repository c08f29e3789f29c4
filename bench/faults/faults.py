"""The faults: something that breaks and is made whole again, and which class is which kind of the plan."""

from collections.abc import Callable
from typing import Final, Protocol

from bench.faults.certificates import WrongCertificate
from bench.faults.identities import Duplicate, ExpiredToken, Rotation
from bench.faults.plan import Planned
from bench.faults.processes import Arrival, Kill, KillAtPoint, Restart, Stop, Wiped
from bench.faults.rig import Rig
from bench.faults.surroundings import Clock, FullDisk, Network


class Fault(Protocol):
    """Something that goes wrong for a while."""

    touches: frozenset[str]
    """What nothing else may break at the same time; names of processes and links."""

    async def begin(self) -> None:
        """Breaks it."""

    async def end(self) -> None:
        """Makes it whole again."""


Maker = Callable[[Rig, Planned], Fault]

MAKERS: Final[dict[str, Maker]] = {
    "kill": Kill,
    "stop": Stop,
    "kill at a point": KillAtPoint,
    "kill at another point": KillAtPoint,
    "restart of the broker": Restart,
    "restart of the broker without its files": Wiped,
    "restart of the database": Restart,
    "expired token": ExpiredToken,
    "rotation of the key": Rotation,
    "second agent with the same name": Duplicate,
    "clock an hour ahead": Clock,
    "clock an hour behind": Clock,
    "full disk under the spool": FullDisk,
    "full disk under the database": FullDisk,
    "delayed TCP": Network,
    "cut TCP": Network,
    "sliced TCP": Network,
    "hanging TCP": Network,
    "refused TCP": Network,
    "silent TCP": Network,
    "cut TLS handshakes": Network,
    "certificate of another CA": WrongCertificate,
    "certificate of another host": WrongCertificate,
    "expired certificate": WrongCertificate,
    "worker leaves in order": Restart,
    "worker comes": Arrival,
}
"""How each kind of the plan is made."""


def make_fault(rig: Rig, planned: Planned) -> Fault:
    """The fault that was planned."""
    return MAKERS[planned.kind](rig, planned)

"""Define a fault, which breaks something and repairs it, and the class for each kind of the plan."""

from collections.abc import Callable
from typing import Final, Protocol

from bench.faults.certificates import WrongCertificate
from bench.faults.identities import Duplicate, ExpiredToken, Rotation
from bench.faults.nodes import CutOff, FrozenNode, SlowNode, TwoKilled
from bench.faults.plan import Planned
from bench.faults.processes import Arrival, Kill, KillAtPoint, Restart, Stop, Wiped
from bench.faults.rig import Rig
from bench.faults.surroundings import Clock, FullDisk, Network


class Fault(Protocol):
    """A temporary fault."""

    touches: frozenset[str]
    """Names of the processes and links that no other fault may break at the same time."""

    async def begin(self) -> None:
        """Break it."""

    async def end(self) -> None:
        """Repair it."""


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
    "frozen node": FrozenNode,
    "slow node": SlowNode,
    "node cut off": CutOff,
    "killed node": Kill,
    "two killed nodes": TwoKilled,
}
"""The class for each kind of the plan."""


def make_fault(rig: Rig, planned: Planned) -> Fault:
    """Make the planned fault."""
    return MAKERS[planned.kind](rig, planned)

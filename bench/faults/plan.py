"""Plan which fault hits which target, when, and for how long: a pure function of a seed.

Kinds are drawn like cards: each occurs once before any occurs again, so that all are about equally frequent. Faults
overlap if they do not touch the same processes and links.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

GAP: Final = (3.0, 8.0)
"""Seconds between the starts of two faults."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its possible targets (``*`` at the end: any with that prefix), and its duration in seconds."""

    name: str
    targets: tuple[str, ...]
    seconds: tuple[float, float]


_PROCESSES: Final = ("agent *", "ingest *", "scorer", "selector", "api", "broker", "database")
"""Names of processes in the rig."""

POINTS: Final = (
    "ingest: before the commit",
    "ingest: after the commit, before the ack",
    "agent: after the ack, before the spool is trimmed",
    "agent: after the spool write, before the publish",
    "selector: before the commit",
    "selector: after the commit, before publishing",
    "scorer: before the commit",
    "api: after the certificate is stored, before the answer",
)
"""Points at which a process kills itself, by program."""

DATABASE: Final = "database"

LINKS: Final = ("agents to broker", "workers to broker", "workers to database", "agents to API")
"""Pairs of processes with a proxy in between."""

TLS_LINKS: Final = (LINKS[0], LINKS[1], LINKS[3])

KINDS: Final = (
    Kind("kill", _PROCESSES, (0.5, 8.0)),
    Kind("stop", _PROCESSES, (1.0, 15.0)),
    Kind("kill at a point", POINTS, (0.5, 4.0)),
    Kind("kill at another point", POINTS, (0.5, 4.0)),
    Kind("restart of the broker", ("broker",), (0.2, 5.0)),
    Kind("restart of the broker without its files", ("broker",), (0.2, 5.0)),
    Kind("restart of the database", ("database",), (0.2, 5.0)),
    Kind("expired token", ("agent *",), (18.0, 25.0)),
    Kind("rotation of the key", ("everybody",), (4.0, 10.0)),
    Kind("second agent with the same name", ("agent *",), (8.0, 20.0)),
    Kind("clock an hour ahead", ("agent *",), (4.0, 20.0)),
    Kind("clock an hour behind", ("agent *",), (4.0, 20.0)),
    Kind("full disk under the spool", ("agent *",), (5.0, 20.0)),
    Kind("full disk under the database", ("database",), (5.0, 15.0)),
    Kind("delayed TCP", LINKS, (5.0, 15.0)),
    Kind("cut TCP", LINKS, (3.0, 10.0)),
    Kind("sliced TCP", LINKS, (5.0, 15.0)),
    Kind("hanging TCP", LINKS, (2.0, 15.0)),
    Kind("refused TCP", LINKS, (2.0, 10.0)),
    Kind("silent TCP", LINKS, (6.0, 15.0)),
    Kind("cut TLS handshakes", TLS_LINKS, (3.0, 10.0)),
    Kind("certificate of another CA", ("broker",), (3.0, 10.0)),
    Kind("certificate of another host", ("broker",), (3.0, 10.0)),
    Kind("expired certificate", ("broker",), (3.0, 10.0)),
    Kind("worker leaves in order", ("ingest *", "scorer", "selector", "api"), (0.5, 8.0)),
    Kind("worker comes", ("ingest 3", "ingest 4"), (5.0, 20.0)),
)
"""All kinds."""

NAMES: Final = tuple(kind.name for kind in KINDS)

NODES: Final = ("node 1", "node 2", "node 3")
"""The nodes of a cluster, in the place of the database."""

CLUSTER: Final = "cluster"
"""The name for what only one fault at a time may break: two nodes that fail leave no majority."""

_OF_CLUSTER: Final = {DATABASE: "node *", LINKS[2]: "workers to node *"}

CLUSTER_KINDS: Final = (
    *(replace(kind, targets=tuple(_OF_CLUSTER.get(target, target) for target in kind.targets)) for kind in KINDS),
    Kind("frozen node", ("node *",), (3.0, 25.0)),
    Kind("slow node", ("node *",), (5.0, 15.0)),
    Kind("node cut off", ("node *",), (6.0, 25.0)),
    Kind("killed node", ("node *",), (0.5, 15.0)),
    Kind("two killed nodes", (CLUSTER,), (2.0, 15.0)),
)
"""All kinds where the ledger is a Galera cluster."""

CLUSTER_NAMES: Final = tuple(kind.name for kind in CLUSTER_KINDS)


def link_to(database: str) -> str:
    """Return the name of the link from the workers to the database, or to a node."""
    return f"workers to {database}"


def locks_of(touched: Collection[str]) -> list[str]:
    """Return the names of the locks for what a fault touches, in their order."""
    return sorted({*touched, *([CLUSTER] if any(node in touched for node in NODES) else ())})


@dataclass(frozen=True, slots=True)
class Planned:
    """A planned fault. Times are seconds; ``at`` counts from the start of its round."""

    at: float
    seconds: float
    kind: str
    target: str
    luck: float
    """A number of [0, 1) for the fault's other choices."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.target}, {self.seconds:.1f} s"


def make_plan(
    seed: str,
    seconds: float,
    processes: Sequence[str],
    kinds: Collection[str] = NAMES,
    gap: tuple[float, float] = GAP,
    known: Sequence[Kind] = KINDS,
) -> list[Planned]:
    """Plan the faults of a round of ``seconds``; the same arguments give the same plan.

    Args:
        processes: names of agents and ingest workers, and of nodes and their links, that may be targets.
        kinds: the names of the kinds to use.
        known: all kinds.
    """
    rng = random.Random(seed)
    deck = _deck([kind for kind in known if kind.name in kinds], rng)
    found: list[Planned] = []
    at = rng.uniform(0.5, 2.0)
    while True:
        kind = next(deck, None)
        if kind is None or at >= seconds:
            return found
        lasts = min(rng.uniform(*kind.seconds), max(kind.seconds[0], seconds - at))
        found.append(Planned(at, lasts, kind.name, _target(kind, processes, rng), rng.random()))
        at += rng.uniform(*gap)


def _deck(kinds: Sequence[Kind], rng: random.Random) -> Iterator[Kind]:
    while kinds:
        yield from rng.sample(kinds, len(kinds))


def _target(kind: Kind, processes: Sequence[str], rng: random.Random) -> str:
    """Choose a target; each of the kind's targets is equally likely, however many processes it stands for."""
    target = rng.choice(kind.targets)
    return rng.choice([name for name in processes if name.startswith(target[:-1])]) if target[-1] == "*" else target

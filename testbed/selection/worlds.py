"""Make servers and monitors for the selector's proof, from explicit values and at random from a seed.

Networks are clustered, so that constraints matter: few /20s, and few /24s in each. Values lie on, just inside and just
outside the thresholds more often than by chance.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from schema.health import HealthLabel
from selector.rows import parse_address
from selector.rules.model import Address, GlobalStatus, Monitor, PairStatus, Server, Settings, Skipped
from selector.rules.review import review
from selector.rules.world import Review

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NETS = (0, 0, 1, 8, 20)
"""Two in one /24 (/48), others in its /20 (/44), and one in the next."""
COUNTS = (0, 1, 8, 9, 10, 23, 24, 25, 160)
STEPS = (-5.0, -0.001, 0.0, 0.001, 0.5, 0.97, 1.0)
RTTS = ((1.0, 300.0), (20.0, 30.0), (90.0, 110.0), (190.0, 230.0))
"""Ranges, in ms: monitors are often so close to each other that the margins of a swap decide."""
CHECKED = (0.0, 7.0, 7.99, 8.0, 30.0, 119.99, 120.0, 130.0)
"""Hours since the last check of a paused pair."""
MOVED = (1, 23, 24, 100, 167, 168, 500)
"""Hours since a pair last changed from candidate to testing or back."""
LIMITS = (0, 1, 2, 2, 2, 3, 5)
LABELS = ((), (), (HealthLabel.STABLE_30D,), (HealthLabel.CLOCK_GOOD,), (HealthLabel.LOSES_PACKETS,))
"""Labels of health that a monitor may have at random: with every standing."""


@dataclass(frozen=True)
class Scene:
    """The input of a review."""

    server: Server
    monitors: tuple[Monitor | Skipped, ...]
    settings: Settings = field(default_factory=Settings)
    now: datetime = NOW

    def review(self) -> Review:
        return review(self.server, self.monitors, self.now, self.settings)

    @property
    def judged(self) -> list[Monitor]:
        return [monitor for monitor in self.monitors if isinstance(monitor, Monitor)]

    def after(self, decided: Review, pause: timedelta = timedelta(minutes=60)) -> "Scene":
        """Return the next review's input if only the review's own decisions change anything."""
        records = {record.monitor_id: record for record in decided.records}
        between = {PairStatus.CANDIDATE, PairStatus.TESTING}
        moved = {one.monitor_id for one in decided.changes if {one.from_status, one.to_status} == between}
        stored = tuple(
            _stored(monitor, records.get(monitor.id), self.now if monitor.id in moved else None)
            for monitor in self.monitors
        )
        return replace(self, monitors=stored, now=self.now + pause)


def _stored(monitor: Monitor | Skipped, record: Any, moved: datetime | None) -> Monitor | Skipped:
    if record is None or isinstance(monitor, Skipped):
        return monitor
    return msgspec.structs.replace(
        monitor,
        pair_status=record.status,
        violation_type=record.violation_type,
        violation_since=record.violation_since,
        last_constraint_check=record.last_constraint_check,
        pause_reason=record.pause_reason,
        last_move=moved or monitor.last_move,
    )


def preferring(scene: Scene, seed: int) -> Scene:
    """Return the scene with the preference for healthy monitors, and with random labels from this seed."""
    dice = random.Random(f"labels {seed}")
    monitors = tuple(
        msgspec.structs.replace(one, labels=dice.choice(LABELS)) if isinstance(one, Monitor) else one
        for one in scene.monitors
    )
    return replace(scene, monitors=monitors, settings=replace(scene.settings, prefer_healthy=True))


def monitor(number: int = 1, status: str | None = "candidate", **values: Any) -> Monitor:
    """Make a healthy, globally active monitor with a separate network and account; ``values`` override its fields."""
    ip = values.pop("ip", f"10.{number}.0.9")
    fields: dict[str, Any] = {
        "name": f"m{number}",
        "address": None if ip is None else parse_address(ip),
        "account_id": number,
        "limit": 2,
        "count": 100,
        "avg_step": 1.0,
        "avg_rtt_ms": 50.0,
    } | values
    fields["global_status"] = GlobalStatus(fields.get("global_status", "active"))
    return Monitor(id=number, pair_status=None if status is None else PairStatus(status), **fields)


def many(numbers: Sequence[int] | range, status: str, **values: Any) -> list[Monitor]:
    """Make several such monitors."""
    return [monitor(number, status, **values) for number in numbers]


SERVER = Server(id=1, address=parse_address("192.0.2.1"), account_id=900)


def scene(*monitors: Monitor | Skipped, now: datetime = NOW, server: Server = SERVER, **changed: Any) -> Scene:
    """Make a scene of these monitors around a server that is close to none of them."""
    return Scene(server, monitors, replace(Settings(), **changed), now)


def address_text(version: int, cluster: int, net: int, host: int) -> str:
    """Return an address: nets below 16 share the /20 (/44) of the cluster; each is a /24 (/48)."""
    if version == 4:
        return f"10.{cluster}.{16 + net}.{1 + host % 250}"
    return f"2001:db8:{cluster * 32 + net:x}::{1 + host:x}"


# ---- by seed -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Climate:
    """The character of a random world: weights, chances and ranges for its monitors."""

    pairs: tuple[tuple[PairStatus, GlobalStatus], ...]
    clusters: int
    accounts: dict[int, int]
    bad: float
    silent: float
    gone: float
    counts: tuple[int, ...]
    steps: tuple[float, ...] = STEPS[2:]
    rtts: tuple[tuple[float, float], ...] = RTTS


def random_scene(seed: int, most: int = 60) -> Scene:
    """Make a random world from this seed."""
    dice = random.Random(seed)
    version = dice.choice((4, 6))
    climate = dice.choice((_wild, _wild, _calm, _crowded))(dice)
    order = list(range(1, dice.randint(0, most) + 1))
    dice.shuffle(order)
    rows = [_random_row(dice, climate, version, number) for number in order]
    return Scene(
        Server(id=1, address=_random_address(dice, climate, version), account_id=dice.choice((None, 1, 900, 900))),
        tuple(rows),
    )


def pool_scene(seed: int) -> Scene:
    """Make a server like the pool's: most of its 5 to 60 monitors are good, and some share a /20 or an account.

    All climates of `random_scene` are worse than reality; this one shows how often an event really occurs.
    """
    dice = random.Random(f"pool {seed}")
    version = dice.choice((4, 4, 6))
    climate = _pool(dice)
    rows = [_random_row(dice, climate, version, number) for number in range(1, dice.randint(5, 60) + 1)]
    return Scene(
        Server(id=1, address=parse_address(address_text(version, 251, 0, 251)), account_id=dice.choice((None, 900))),
        tuple(row for row in rows if isinstance(row, Monitor)),
    )


def _pool(dice: random.Random) -> _Climate:
    pairs = [PairStatus.CANDIDATE] * 6 + [PairStatus.TESTING] * 2 + [PairStatus.ACTIVE] * 2
    states = [GlobalStatus.ACTIVE] * 8 + [GlobalStatus.TESTING] * 2
    return _Climate(
        pairs=tuple((pair, state) for pair in pairs for state in states),
        clusters=dice.choice((20, 40, 80)),
        accounts={account: dice.choice((1, 2, 2, 2, 3, 5)) for account in range(1, 9)},
        bad=0.1,
        silent=0.05,
        gone=0.02,
        counts=(10, 12, 24, 32, 100, 160),
    )


def _wild(dice: random.Random) -> _Climate:
    """Return a mixture of everything."""
    pairs = dice.choice(((5, 3, 3, 1), (1, 0, 0, 0), (4, 4, 4, 1), (0, 0, 1, 0), (0, 1, 0, 0), (2, 2, 1, 2)))
    states = dice.choice(((1, 2, 8, 1, 1), (0, 5, 5, 0, 0), (0, 0, 1, 0, 0), (0, 8, 1, 0, 0), (0, 1, 4, 3, 1)))
    weighted = [
        (pair, state)
        for pair, often in zip(PairStatus, pairs, strict=True)
        for state, as_often in zip(GlobalStatus, states, strict=True)
        for _ in range(often * as_often)
    ]
    return _Climate(
        pairs=tuple(weighted),
        clusters=dice.randint(1, 40),
        accounts={account: dice.choice(LIMITS) for account in range(1, dice.randint(1, 10) + 1)},
        bad=dice.choice((0, 0.1, 0.3, 0.8)),
        silent=dice.choice((0, 0.1, 0.5)),
        gone=0.05,
        counts=COUNTS,
    )


def _calm(dice: random.Random) -> _Climate:
    """Return a world without constraints, in which many monitors are nearly equal."""
    statuses = (PairStatus.CANDIDATE, PairStatus.CANDIDATE, PairStatus.TESTING, PairStatus.ACTIVE)
    return _Climate(
        pairs=tuple((status, GlobalStatus.ACTIVE) for status in statuses),
        clusters=250,
        accounts={},
        bad=dice.choice((0, 0, 0.5)),
        silent=0,
        gone=0,
        counts=(24, 25, 100, 160),
        steps=(1.0,),
        rtts=(dice.choice(((1.0, 300.0), (20.0, 30.0), (200.0, 215.0))),),
    )


def _crowded(dice: random.Random) -> _Climate:
    """Return a world in which monitors that cannot become active hold places that globally active ones wait for."""
    idle = dice.choice((GlobalStatus.TESTING, GlobalStatus.ACTIVE))
    return _Climate(
        pairs=(
            *((PairStatus.TESTING, idle),) * 4,
            (PairStatus.TESTING, GlobalStatus.ACTIVE),
            (PairStatus.CANDIDATE, GlobalStatus.ACTIVE),
            (PairStatus.CANDIDATE, GlobalStatus.TESTING),
            (PairStatus.ACTIVE, dice.choice((GlobalStatus.TESTING, GlobalStatus.PAUSED))),
        ),
        clusters=dice.choice((10, 250)),
        accounts={1: 2, 2: 1, 3: 5},
        bad=0,
        silent=0 if idle is GlobalStatus.TESTING else 0.6,
        gone=0,
        counts=COUNTS,
    )


def _random_row(dice: random.Random, climate: _Climate, version: int, number: int) -> Monitor | Skipped:
    pair, state = dice.choice(climate.pairs)
    if dice.random() < 0.02:
        return Skipped(id=number, name=f"m{number}", pair_status=pair, reason="broken")
    count = (
        0 if dice.random() < climate.silent else dice.choice((*climate.counts, dice.randint(climate.counts[0], 160)))
    )
    step = dice.choice(STEPS[:2]) if dice.random() < climate.bad else dice.choice((*STEPS[2:], dice.random(), 1.0, 1.0))
    account = dice.choice([None, *list(climate.accounts) * 3])
    return Monitor(
        id=number,
        name=f"m{number}",
        address=_random_address(dice, climate, version),
        account_id=account,
        limit=climate.accounts.get(account or 0, 2),
        global_status=state,
        pair_status=pair,
        count=count,
        avg_step=step if count else None,
        avg_rtt_ms=dice.uniform(*dice.choice(climate.rtts)) if count and step > -5 else None,
        gone=dice.random() < climate.gone,
        violation_type=dice.choice((None, None, "limit", "account")),
        violation_since=NOW - timedelta(days=dice.randint(1, 9)),
        last_constraint_check=dice.choice((None, NOW - timedelta(hours=dice.choice(CHECKED)))),
        pause_reason=dice.choice((None, "constraint", "excess")) if pair is PairStatus.PAUSED else None,
        last_move=None if number % 3 == 0 else NOW - timedelta(hours=MOVED[number % len(MOVED)]),
    )


def _random_address(dice: random.Random, climate: _Climate, version: int) -> Address:
    text = address_text(version, dice.randrange(climate.clusters), dice.choice(NETS), dice.randrange(250))
    return parse_address(text)

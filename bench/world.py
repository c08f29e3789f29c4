"""Fill the ledger with a pool of any size up to the real one and beyond: monitors, servers, pairs, and their log.

The database itself makes most rows, from its sequences, so that 300 000 pairs take seconds. Each address is in a
separate network, so that no constraint keeps a monitor from a server.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import utc_now
from runtime.db.system_settings import Intervals
from schema.messages import PairStatus
from schema.tables import accounts, monitors, servers, system_settings
from testbed.load.spec import Member, Target

DOMAIN: Final = "mon.example"
ENV: Final = "devel"
DEFAULT: Final = Intervals()

STATUSES: Final[tuple[PairStatus, ...]] = ("active", "testing", "candidate")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A pool. The first monitors of each server are active, the next ones testing; each server starts at another
    monitor."""

    servers: int = 5_000
    monitors: int = 60
    active: int = 7
    testing: int = 12
    speed: float = 1.0
    """Ratio of the frequency of measurements to that of the real pool."""
    first_server: int = 1

    @property
    def intervals(self) -> Intervals:
        """Seconds between two results of a pair."""
        return Intervals(
            interval_active=DEFAULT.interval_active / self.speed,
            interval_testing=DEFAULT.interval_testing / self.speed,
            interval_candidate=DEFAULT.interval_candidate / self.speed,
        )

    @property
    def pace(self) -> float:
        """Results per second at these intervals."""
        counts = {"active": self.active, "testing": self.testing}
        counts["candidate"] = self.monitors - self.active - self.testing
        return sum(self.servers * counts[status] / self.intervals.of(status) for status in STATUSES)

    @property
    def server_ids(self) -> range:
        """Ids of all servers."""
        return range(self.first_server, self.first_server + self.servers)

    @property
    def monitor_ids(self) -> range:
        """Ids of all monitors."""
        return range(1, self.monitors + 1)

    def status(self, server_id: int, monitor_id: int) -> PairStatus:
        """Return a pair's status."""
        place = (monitor_id + server_id * self.active) % self.monitors
        if place < self.active:
            return "active"
        return "testing" if place < self.active + self.testing else "candidate"

    def members(self) -> list[Member]:
        """Return the monitors with their targets, for the load generator."""
        of = {status: self.intervals.of(status) for status in STATUSES}
        addresses = [(server_id, server_ip(server_id)) for server_id in self.server_ids]
        return [
            Member(
                name=monitor_name(m),
                targets=[Target(s, ip, of[self.status(s, m)]) for s, ip in addresses],
            )
            for m in self.monitor_ids
        ]


def paced(world: World, rate: float) -> World:
    """Return ``world`` at the speed at which its monitors produce ``rate`` results per second."""
    return World(
        servers=world.servers,
        monitors=world.monitors,
        active=world.active,
        testing=world.testing,
        speed=world.speed * rate / world.pace,
        first_server=world.first_server,
    )


def monitor_name(monitor_id: int) -> str:
    """Return the monitor's full name."""
    return f"bench{monitor_id}.{ENV}.{DOMAIN}"


def server_ip(server_id: int) -> str:
    """Return the server's unique address."""
    return f"172.{16 + (server_id >> 16)}.{server_id >> 8 & 255}.{server_id & 255}"


def monitor_ip(monitor_id: int) -> str:
    """Return an address in a separate /20."""
    return f"{10 + (monitor_id >> 12)}.{monitor_id >> 4 & 255}.{(monitor_id & 15) << 4}.1"


def fill(engine: Engine, world: World) -> None:
    """Write the world, without a log, into an empty ledger of MariaDB."""
    now = utc_now().replace(microsecond=0)
    with engine.begin() as connection:
        insert_all(
            connection, accounts, ({"id": m, "name": f"bench {m}", "created_on": now} for m in world.monitor_ids)
        )
        insert_all(connection, monitors, (_monitor(m, now) for m in world.monitor_ids))
        insert_all(connection, servers, (_server(s, now) for s in world.server_ids))
        connection.execute(_PAIRS, _numbers(world) | {"now": now})
        value = {name: getattr(world.intervals, name) for name in world.intervals.__struct_fields__}
        row = {"key": "monitors", "value": json.dumps(value), "created_on": now}
        connection.execute(sa.insert(system_settings).values(row))
    analyze(engine)


def analyze(engine: Engine) -> None:
    """Update the database's statistics, as it does by itself after some time."""
    with engine.connect() as connection:
        connection.execute(sa.text("ANALYZE TABLE `log_scores`, `server_scores`, `servers`, `monitors`")).all()


def insert_all(connection: Connection, table: sa.Table, rows: Iterator[dict[str, Any]]) -> None:
    """Insert rows, a few thousand at a time."""
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == 5_000:
            connection.execute(sa.insert(table), waiting)
            waiting = []
    if waiting:
        connection.execute(sa.insert(table), waiting)


def _monitor(monitor_id: int, now: datetime) -> dict[str, Any]:
    return {
        "id": monitor_id,
        "tls_name": monitor_name(monitor_id),
        "ip": monitor_ip(monitor_id),
        "ip_version": "v4",
        "account_id": monitor_id,
        "status": "active",
        "config": "{}",
        "created_on": now,
    }


def _server(server_id: int, now: datetime) -> dict[str, Any]:
    return {"id": server_id, "ip": server_ip(server_id), "ip_version": "v4", "in_pool": 1, "created_on": now}


def _numbers(world: World) -> dict[str, int]:
    return {
        "servers": world.servers,
        "first": world.first_server - 1,
        "monitors": world.monitors,
        "active": world.active,
        "placed": world.active + world.testing,
    }


_STATUS_SQL: Final = """
    CASE WHEN MOD(`m`.`seq` + (`s`.`seq` + :first) * :active, :monitors) < :active THEN 'active'
         WHEN MOD(`m`.`seq` + (`s`.`seq` + :first) * :active, :monitors) < :placed THEN 'testing'
         ELSE 'candidate' END
"""

_PAIRS: Final = sa.text(f"""
    INSERT INTO `server_scores` (`server_id`, `monitor_id`, `status`, `created_on`)
    SELECT `s`.`seq` + :first, `m`.`seq`, {_STATUS_SQL}, :now
    FROM `seq_1_to_100000` AS `s` JOIN `seq_1_to_10000` AS `m`
    WHERE `s`.`seq` <= :servers AND `m`.`seq` <= :monitors
    ORDER BY `s`.`seq`, `m`.`seq`
""")  # noqa: S608  # built from constants

"""Measure how fast the public pages answer programs, beside a log of two weeks with all monitors of each server.

The short history is asked for at a fixed rate, whether or not earlier requests have been answered; its time counts from
the moment at which it was due. Then come the longest histories and ranges, one after the other. Nothing is cached
between, and the client runs in this process, so the machine's processors are shared with the pages and the database.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.agent_memory import read_memory
from bench.figure import Figure, percentile, report
from bench.history import add_history
from bench.measure import machine_load
from bench.progress import say
from bench.stage import Stage, migrated, run, shares
from bench.world import World, analyze, fill, server_ip
from runtime.db.engine import utc_now
from schema.tables import monitors
from testbed.database import DatabaseServer
from testbed.ports import ADDRESS
from testbed.site import API_READY, WEB, make_site, web_command
from testbed.stack import CannotRun

SHORT_AT_MOST: Final = 0.025
LONG_AT_MOST: Final = 0.4
MEMORY_AT_MOST: Final = 150.0

_SCORER: Final = "recentmedian.scores.ntp.dev"
_SCORES_EVERY: Final = 15 * 60
"""Seconds between two rows of a score that does not change."""

_CONNECTIONS: Final = 16
_ANSWER_WITHIN: Final = 30.0
_LONG: Final = 20
"""Number of long histories."""


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench web", description=__doc__)
    arguments.add_argument("--servers", type=int, default=50)
    arguments.add_argument("--monitors", type=int, default=150)
    arguments.add_argument("--days", type=int, default=15)
    arguments.add_argument("--rate", type=float, default=200.0, help="requests a second")
    arguments.add_argument("--seconds", type=float, default=30.0)
    return run(partial(_measure, arguments.parse_args()))


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    with tempfile.TemporaryDirectory(prefix="ntpbench-") as directory:
        site = make_site(Path(directory), migrated(database, "bench"), web=True)
        async with Stage(site, database) as on:
            say("filling the ledger")
            rows = await asyncio.to_thread(_fill, on.engine, given)
            await on.start_process(web_command(site), API_READY)
            say(f"{rows} rows; {given.rate:g} requests a second for {given.seconds:g} s")
            client = Client(site.web_port or 0)
            await _ask_for(given, client, 5.0)
            before, began = on.cpu_seconds(), time.monotonic()
            short = await _ask_for(given, client, given.seconds)
            cores = shares(before, on.cpu_seconds(), time.monotonic() - began)
            say("the longest histories and ranges")
            long = [await client.ask(_path(n, "log?limit=10000&monitor=*")) for n in range(1, _LONG + 1)]
            ranges = [await client.ask(_range(n)) for n in range(1, _LONG // 4 + 1)]
            memory = read_memory(on.supervisor.pid(WEB) or 0).peak
            conditions = {"rows": rows, "cores": cores, **vars(given), **machine_load()}
            return report(*_figures(short, long, ranges, memory, conditions))


def _figures(
    short: list[float], long: list[float], ranges: list[float], memory: float, conditions: dict[str, object]
) -> list[Figure]:
    middle = {"p50_s": round(percentile(short, 50), 5), "requests": len(short), **conditions}
    return [
        Figure("web, json?limit=100, p99", percentile(short, 99), "s", at_most=SHORT_AT_MOST, conditions=middle),
        Figure("web, log?limit=10000&monitor=*, median", percentile(long, 50), "s", at_most=LONG_AT_MOST),
        Figure("web, range of two weeks, median", percentile(ranges, 50), "s"),
        Figure("web, highest memory", memory, "MB", at_most=MEMORY_AT_MOST),
    ]


def _fill(engine: Engine, given: argparse.Namespace) -> int:
    """Fill the ledger; return the number of log rows."""
    world = World(servers=given.servers, monitors=given.monitors, active=7, testing=5)
    fill(engine, world)
    rows = add_history(engine, given.days * 24)
    now = utc_now().replace(microsecond=0)
    with engine.begin() as connection:
        made = {"type": "score", "tls_name": _SCORER, "hostname": "recentmedian", "status": "active", "config": "{}"}
        key = connection.execute(sa.insert(monitors), made | {"created_on": now}).inserted_primary_key
        assert key is not None
        numbers = {
            "scorer": key[0],
            "now": now,
            "every": _SCORES_EVERY,
            "rows": given.days * 86_400 // _SCORES_EVERY,
            "attributes": '{"from_ls_id":1}',
        }
        for statement in _SCORES:
            rows += connection.execute(statement, numbers).rowcount
    analyze(engine)
    return rows


_SCORES: Final = (
    sa.text("""
        INSERT INTO `server_scores` (`server_id`, `monitor_id`, `status`, `score_raw`, `score_ts`, `created_on`)
        SELECT `id`, :scorer, 'active', 20, :now, :now FROM `servers`
    """),
    sa.text("""
        INSERT INTO `log_scores` (`monitor_id`, `server_id`, `ts`, `score`, `step`, `attributes`)
        SELECT :scorer, `s`.`id`, :now - INTERVAL (`n`.`seq` * :every) SECOND, 20, 1, :attributes
        FROM `seq_1_to_100000` AS `n` JOIN `servers` AS `s` WHERE `n`.`seq` <= :rows
    """),
)


async def _ask_for(given: argparse.Namespace, client: "Client", seconds: float) -> list[float]:
    """Ask for short histories at the rate; return how long each took since the moment at which it was due."""
    chosen, began, tasks = random.Random(1), time.monotonic(), []
    for number in range(int(given.rate * seconds)):
        due = began + number / given.rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        path = _path(chosen.randint(1, given.servers), "json?limit=100")
        tasks.append(asyncio.create_task(client.ask(path, due)))
    return list(await asyncio.gather(*tasks))


def _path(server_id: int, rest: str) -> str:
    return f"/api/data/server/scores/{server_ip(server_id)}/{rest}"


def _range(server_id: int) -> str:
    return f"/api/v2/server/scores/{server_ip(server_id)}/json?from=-14d&maxDataPoints=1000"


class Client:
    """A few connections that stay open, like those of a cache."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None] = asyncio.LifoQueue()
        for _ in range(_CONNECTIONS):
            self._idle.put_nowait(None)

    async def ask(self, path: str, due: float | None = None) -> float:
        """Send one request; return the seconds from ``due``, default: from now, to the end of its answer.

        Raises:
            CannotRun: it was not answered, or with an error.
        """
        began = time.monotonic() if due is None else due
        connection = await self._idle.get()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                reader, writer = connection or await asyncio.open_connection(ADDRESS, self._port, limit=1 << 24)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n".encode())
                await _read_answer(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise CannotRun(f"{path}: {type(error).__name__}") from None
        self._idle.put_nowait((reader, writer))
        return time.monotonic() - began


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, _, fields = head.partition("\r\n")
    if " 200 " not in status:
        raise CannotRun(f"the pages answered {status}")
    [size] = [line.partition(":")[2] for line in fields.split("\r\n") if line.lower().startswith("content-length:")]
    await reader.readexactly(int(size))


if __name__ == "__main__":
    sys.exit(main())

"""Measure how long 1 000 agents that start at once take to get configuration, token and certificate from one API.

As after an outage of the API: every agent asks with its own key, over TLS, with a new connection for each request, as
agents do. The clients run in this process, so the machine's processors are shared with the API and the database.
"""

import argparse
import asyncio
import resource
import ssl
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from auth.ca.request import new_key
from bench.api_stage import add_keys, api_command, prepare_files
from bench.figure import Figure, percentile, report
from bench.measure import machine_load
from bench.progress import say
from bench.stage import Stage, run, shares, stage
from bench.world import World, fill
from testbed.database import DatabaseServer
from testbed.ports import ADDRESS, free_port
from testbed.site import API, API_READY

AT_MOST: Final = 60.0
"""Seconds until all agents have everything."""

_ANSWER_WITHIN: Final = 60.0
_AGAIN_AFTER: Final = 1.0
"""Seconds until an agent whose request failed asks again; the real ones wait longer."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent: its API key, and the signing request for its certificate."""

    key: str
    request: bytes


@dataclass(slots=True)
class Observed:
    """The measurements of all agents."""

    seconds: list[float] = field(default_factory=list)
    """Of each successful request."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed requests, by reason; each was made again."""
    missing: int = 0
    """Agents that did not get everything in time."""


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench api_start", description=__doc__)
    arguments.add_argument("--agents", type=int, default=1000)
    return run(partial(_measure, arguments.parse_args()))


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    _allow_connections()
    async with stage(database) as on:
        say("filling the ledger")
        port, trusted = free_port(), prepare_files(on.site.directory)
        agents = await asyncio.to_thread(_prepare_agents, on, given.agents)
        await on.start_process(api_command(on, API, port), API_READY)
        say(f"starting {len(agents)} agents")
        observed, before, began = Observed(), on.cpu_seconds(), time.monotonic()
        await asyncio.gather(*(_start(agent, port, trusted, observed) for agent in agents))
        seconds = time.monotonic() - began
        cores = shares(before, on.cpu_seconds(), seconds)
    return report(*_figures(given, observed, seconds, cores))


def _allow_connections() -> None:
    """Raise the limit of open files, which the API inherits, as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _prepare_agents(on: Stage, count: int) -> list[Agent]:
    world = World(servers=1, monitors=count, active=0, testing=0)
    fill(on.engine, world)
    return [Agent(key, new_key().request.pem.encode()) for key in add_keys(on, world.monitor_ids)]


async def _start(agent: Agent, port: int, trusted: ssl.SSLContext, observed: Observed) -> None:
    """Do what an agent does at its start."""
    deadline = time.monotonic() + 2 * AT_MOST
    for method, path, body in (
        ("GET", "/monitor/api/config", b""),
        ("POST", "/monitor/api/token", b"{}"),
        ("POST", "/monitor/api/certificate", agent.request),
    ):
        while (reason := await _ask(agent, port, trusted, method, path, body, observed)) is not None:
            observed.failures[reason] += 1
            if time.monotonic() > deadline:
                observed.missing += 1
                return
            await asyncio.sleep(_AGAIN_AFTER)


async def _ask(
    agent: Agent, port: int, trusted: ssl.SSLContext, method: str, path: str, body: bytes, observed: Observed
) -> str | None:
    """Send one request; return why it failed, or ``None``."""
    began = time.monotonic()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nAuthorization: Bearer {agent.key}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_connection(ADDRESS, port, ssl=trusted, server_hostname=ADDRESS)
            try:
                writer.write(head.encode() + body)
                answer = await reader.read()
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    if not answer.startswith(b"HTTP/1.1 200 "):
        return answer[:12].decode("ascii", "replace") or "no answer"
    observed.seconds.append(time.monotonic() - began)
    return None


def _figures(given: argparse.Namespace, observed: Observed, seconds: float, cores: dict[str, float]) -> list[Figure]:
    conditions = {
        "agents": given.agents,
        "requests": len(observed.seconds),
        "p50_s": round(percentile(observed.seconds, 50), 3),
        "max_s": round(max(observed.seconds), 3),
        "cores": cores,
        **machine_load(),
    }
    failed = {"by_reason": dict(observed.failures), "agents_without_everything": observed.missing}
    failures = sum(observed.failures.values()) + observed.missing
    return [
        Figure("API start, all agents have everything", seconds, "s", at_most=AT_MOST, conditions=conditions),
        Figure("API start, p99 of a request", percentile(observed.seconds, 99), "s", conditions=conditions),
        Figure("API start, failures", failures, "failures", at_most=0, conditions=failed),
    ]


if __name__ == "__main__":
    sys.exit(main())

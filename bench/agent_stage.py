"""What a benchmark of the agent needs: a broker, NTP servers, the pool's side of the conversation, and the daemon.

Everything listens on the loopback network and has its files in a temporary directory. However a benchmark ends, by
itself, by Ctrl-C, SIGTERM or an error, nothing that it started stays behind.
"""

import asyncio
import dataclasses
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.agent_pool import PoolSide
from bench.stage import end_by_unwinding
from bench.world import DOMAIN, ENV
from testbed.broker import BrokerUnavailable
from testbed.ntp.spec import ServerSpec
from testbed.site import (
    FLEET_READY,
    Site,
    agent_settings,
    fleet_command,
    make_command,
    make_site,
    monitor_token,
    provision_agent,
    python_command,
)
from testbed.stack import CannotRun, Stack

AGENT: Final = "agent"
CLOCK_CHECKS: Final = ("127.29.0.1", "127.29.1.1", "127.29.2.1")
"""Servers that are right, for the agent's check of its own clock."""

_NAME: Final = f"bench1-x1.{ENV}.{DOMAIN}"


class AgentStage(Stack):
    """NTP servers, an agent, and the pool; see :func:`agent_stage`."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.pool = PoolSide(site.broker_address, site.key, _NAME)

    @property
    def directory(self) -> Path:
        """Where everything is."""
        return self.site.directory

    async def start_servers(self, specs: Sequence[ServerSpec]) -> None:
        """These NTP servers in one process, and those of the clock check; all on the port of the first."""
        checks = [ServerSpec(address=address, port=specs[0].port) for address in CLOCK_CHECKS]
        await self.start_process(fleet_command(self.site, [*specs, *checks]), FLEET_READY)

    async def start_agent(self, *argv: str) -> int:
        """Starts an agent with an empty state directory, and returns its process id when it probes.

        Args:
            argv: what to run; default: the agent with our interpreter.
        """
        base = Path(tempfile.mkdtemp(prefix="agent-", dir=self.directory))
        token = monitor_token(self.site.key, _NAME)
        provision_agent(base, _NAME, self.site.broker.address(tls=True), token)
        self.pool.forget()
        command = python_command(self.site, AGENT, "agent", "monitor", settings=agent_settings(base))
        await self.supervisor.start(dataclasses.replace(command, argv=argv) if argv else command)
        await self.until(lambda: self.pool.probing, "the agent's first probe")
        pid = self.supervisor.pid(AGENT)
        assert pid is not None
        return pid

    async def start_busy_loops(self, count: int, seconds: float) -> list[str]:
        """Processes that do nothing but keep a core busy, each; they end by themselves after ``seconds``."""
        loop = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
        names = [f"busy-{number}" for number in range(1, count + 1)]
        for name in names:
            await self.supervisor.start(make_command(self.site, name, [sys.executable, "-I", "-c", loop], {}))
        return names

    async def rest(self, seconds: float) -> None:
        """Lets so much time pass.

        Raises:
            CannotRun: a process died meanwhile.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            await asyncio.sleep(min(left, 1.0))


@asynccontextmanager
async def agent_stage() -> AsyncIterator[AgentStage]:
    """A running broker, and the pool connected to it.

    Raises:
        CannotRun: the broker cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="ntpbench-") as directory:
        try:
            site = make_site(Path(directory), None)
        except BrokerUnavailable as error:
            raise CannotRun(str(error)) from None
        async with AgentStage(site) as made:
            await made.start_broker()
            async with made.pool.connected():
                yield made


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs a benchmark, and returns the exit status: 2 when something it needs is missing."""
    end_by_unwinding()
    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted\n")
        return 130
    except (CannotRun, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2

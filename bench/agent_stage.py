"""Set up a benchmark of the agent: a broker, NTP servers, the pool's side of the exchange, and the daemon.

All processes listen on the loopback network and have their files in a temporary directory. However a benchmark ends
(normally, by Ctrl-C, SIGTERM or an error), it leaves nothing behind.
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
"""Correct servers, for the agent's base checks."""

_NAME: Final = f"bench1-x1.{ENV}.{DOMAIN}"


class AgentStage(Stack):
    """NTP servers, an agent, and the pool; see :func:`agent_stage`."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.pool = PoolSide(site.broker_address, site.key, _NAME)

    @property
    def directory(self) -> Path:
        """The directory of all files."""
        return self.site.directory

    async def start_servers(self, specs: Sequence[ServerSpec]) -> None:
        """Start these NTP servers in one process, and those for base checks; all on the port of the first."""
        checks = [ServerSpec(address=address, port=specs[0].port) for address in CLOCK_CHECKS]
        await self.start_process(fleet_command(self.site, [*specs, *checks]), FLEET_READY)

    async def start_agent(self, *argv: str) -> int:
        """Start an agent with an empty state directory; return its process id when it probes.

        Args:
            argv: the command; default: the agent with our interpreter.
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
        """Start processes that keep one core busy each; they end by themselves after ``seconds``."""
        loop = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
        names = [f"busy-{number}" for number in range(1, count + 1)]
        for name in names:
            await self.supervisor.start(make_command(self.site, name, [sys.executable, "-I", "-c", loop], {}))
        return names

    async def rest(self, seconds: float) -> None:
        """Wait this long.

        Raises:
            CannotRun: a process died meanwhile.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            await asyncio.sleep(min(left, 1.0))


@asynccontextmanager
async def agent_stage() -> AsyncIterator[AgentStage]:
    """Run a broker, with the pool connected to it.

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
    """Run a benchmark; return the exit status, 2 if a requirement is missing."""
    end_by_unwinding()
    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted\n")
        return 130
    except (CannotRun, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2

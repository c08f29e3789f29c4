"""Set up a benchmark of the agent: a broker, NTP servers, the pool's side of the exchange, and the daemon.

All processes listen on the loopback network and have their files in a temporary directory. However a benchmark ends
(normally, by Ctrl-C, SIGTERM or an error), it leaves nothing behind.
"""

import asyncio
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from agent.state import Api, StateDirectory, StateFile
from bench.agent_pool import PoolSide
from bench.stage import end_by_unwinding
from bench.world import DOMAIN, ENV
from testbed.agent_api import DUE, AgentApi, CertifyingBroker, server_pair, told_broker
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
_KEY: Final = "ntpm_the_key_of_a_benchmark"


class AgentStage(Stack):
    """NTP servers, an agent, and the pool; see :func:`agent_stage`.

    Args:
        api: gives the agent its identity; otherwise it is provisioned.
    """

    def __init__(self, site: Site, api: AgentApi | None = None) -> None:
        super().__init__(site)
        self.api = api
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
        self._give_identity(base)
        self.pool.forget()
        command = python_command(self.site, AGENT, "agent", "monitor", settings=agent_settings(base))
        await self.supervisor.start(dataclasses.replace(command, argv=argv) if argv else command)
        await self.until(lambda: self.pool.probing, "the agent's first probe")
        pid = self.supervisor.pid(AGENT)
        assert pid is not None
        return pid

    def _give_identity(self, base: Path) -> None:
        broker = self.site.broker
        if self.api is None:
            provision_agent(base, _NAME, broker.address(tls=True), monitor_token(self.site.key, _NAME))
            return
        directory = StateDirectory(base, ENV)
        directory.prepare()
        api = Api(url=self.api.url, key=_KEY, ca_file=str(broker.directory / "ca.pem"))
        directory.write_file(StateFile(api=api, allow_private_targets=True))

    async def renew(self) -> None:
        """Make the agent renew its token and its certificate; return when it probes again.

        Raises:
            CannotRun: it does not.
        """
        api, pid = self.api, self.supervisor.pid(AGENT)
        assert api is not None and pid is not None
        before = len(api.issuer.requests)
        api.token_used = api.issuer.used = 0.0
        os.kill(pid, signal.SIGHUP)
        await self.until(lambda: len(api.issuer.requests) > before, "the renewal of the certificate")
        self.pool.forget()
        await self.until(lambda: self.pool.probing, "the first probe after the renewal")

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
async def agent_stage(*, certified: bool = False) -> AsyncIterator[AgentStage]:
    """Run a broker, with the pool connected to it.

    Args:
        certified: the broker demands a certificate of the agent, which has token and certificate from an API, both of
            them due for :meth:`AgentStage.renew`.

    Raises:
        CannotRun: the broker cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="ntpbench-") as directory:
        try:
            site = make_site(Path(directory), None)
        except BrokerUnavailable as error:
            raise CannotRun(str(error)) from None
        with ExitStack() as running:
            api: AgentApi | None = None
            if certified:
                broker = CertifyingBroker(site.broker.directory, site.broker.port, site.key.verification_text())
                site = dataclasses.replace(site, broker=broker)
                api = running.enter_context(_api(site, broker))
            async with AgentStage(site, api) as made:
                await made.start_broker()
                async with made.pool.connected():
                    yield made


def _api(site: Site, broker: CertifyingBroker) -> AgentApi:
    made = AgentApi(site.key, ENV, broker.issuer, name=_NAME, tls=server_pair(broker, site.directory))
    made.keys["registered"] = _KEY
    made.addresses["registered"] = {"v4": "192.0.2.1"}
    made.broker = told_broker(broker)
    made.token_used = broker.issuer.used = DUE
    return made


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

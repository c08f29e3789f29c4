"""What a benchmark of the agent needs: a broker, NTP servers, the pool's side of the conversation, and the daemon.

Everything listens on the loopback network and has its files in a temporary directory. However a benchmark ends, by
itself, by Ctrl-C, SIGTERM or an error, nothing that it started stays behind.
"""

import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from agent.state import State, provision
from auth.tokens import Role, SigningKey, load_key, sign
from bench.agent_pool import PoolSide
from bench.stage import START_WITHIN, CannotRun, end_by_unwinding
from bench.world import DOMAIN, ENV
from testbed.broker import BrokerUnavailable, LocalBroker
from testbed.demo.process import Command
from testbed.demo.site import broker_of_agent
from testbed.demo.supervisor import Supervisor
from testbed.ntp.spec import ServerSpec, encode_specs
from testbed.ports import free_port

AGENT: Final = "agent"
CLOCK_CHECKS: Final = ("127.29.0.1", "127.29.1.1", "127.29.2.1")
"""Servers that are right, for the agent's check of its own clock."""

_NAME: Final = f"bench1-x1.{ENV}.{DOMAIN}"
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Of our environment. Settings of an agent that is installed on this machine must not reach ours."""
_LOOK_EVERY: Final = 0.05


class AgentStage:
    """Processes by name, and the pool; see :func:`agent_stage`."""

    def __init__(self, directory: Path, broker: LocalBroker, key: SigningKey, supervisor: Supervisor) -> None:
        self.directory = directory
        self.supervisor = supervisor
        self.pool = PoolSide(broker.address(), key, _NAME)
        self._broker = broker
        self._key = key

    async def start_broker(self) -> None:
        """Returns when it listens."""
        log = await self._start("broker", self._broker.prepare())
        await self.until(lambda: " running\n" in log.read_text(errors="replace"), "start of the broker")

    async def start_servers(self, specs: Sequence[ServerSpec]) -> None:
        """These NTP servers in one process, and those of the clock check; all on the port of the first."""
        checks = [ServerSpec(address=address, port=specs[0].port) for address in CLOCK_CHECKS]
        path = self.directory / "fleet.json"
        path.write_bytes(encode_specs([*specs, *checks]))
        log = await self._start("servers", _python("testbed.ntp", "fleet", str(path)))
        await self.until(lambda: "ready\n" in log.read_text(errors="replace"), "start of the NTP servers")

    async def start_agent(self, *argv: str) -> int:
        """Starts an agent with an empty state directory, and returns its process id when it probes.

        Args:
            argv: what to run; default: the agent with our interpreter.
        """
        base = Path(tempfile.mkdtemp(prefix="agent-", dir=self.directory))
        state = State(name=_NAME, broker=broker_of_agent(self._broker.address(tls=True)), allow_private_targets=True)
        provision(base, ENV, state, sign(self._key, Role.MONITOR, _NAME, ENV))
        settings = {"DEPLOYMENT_MODE": ENV, "MONITOR_STATE_DIR": str(base), "MONITOR_DEFAULTS_FILE": os.devnull}
        self.pool.forget()
        await self._start(AGENT, argv or _python("agent", "monitor"), settings)
        await self.until(lambda: self.pool.probing, "the agent's first probe")
        pid = self.supervisor.pid(AGENT)
        assert pid is not None
        return pid

    async def start_busy_loops(self, count: int, seconds: float) -> list[str]:
        """Processes that do nothing but keep a core busy, each; they end by themselves after ``seconds``."""
        loop = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
        names = [f"busy-{number}" for number in range(1, count + 1)]
        for name in names:
            await self._start(name, [sys.executable, "-I", "-c", loop])
        return names

    async def until(self, condition: Callable[[], bool], what: str, within: float = START_WITHIN) -> None:
        """Returns when ``condition`` is true.

        Raises:
            CannotRun: it does not become true in time, or a process died.
        """
        deadline = time.monotonic() + within
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise CannotRun(f"{what} did not come about within {within:g} s")
            await asyncio.sleep(_LOOK_EVERY)

    async def rest(self, seconds: float) -> None:
        """Lets so much time pass.

        Raises:
            CannotRun: a process died meanwhile.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            await asyncio.sleep(min(left, 1.0))

    def check(self) -> None:
        """Raises CannotRun if a process has died."""
        if self.supervisor.deaths:
            raise CannotRun(str(self.supervisor.deaths[0]))

    async def _start(self, name: str, argv: Sequence[str], settings: Mapping[str, str] | None = None) -> Path:
        """Starts a process; returns its log."""
        inherited = {variable: os.environ[variable] for variable in _INHERITED if variable in os.environ}
        env = {**inherited, "HOME": str(self.directory), **(settings or {})}
        log = self.directory / f"{name}.log"
        await self.supervisor.start(Command(name, argv, env, log, self.directory))
        return log


@asynccontextmanager
async def agent_stage() -> AsyncIterator[AgentStage]:
    """A running broker, and the pool connected to it.

    Raises:
        CannotRun: the broker cannot be started.
    """
    key = load_key(secrets.token_urlsafe(48))
    with tempfile.TemporaryDirectory(prefix="ntpbench-") as directory:
        try:
            broker = LocalBroker(Path(directory) / "broker", free_port(), key.verification_text())
        except BrokerUnavailable as error:
            raise CannotRun(str(error)) from None
        async with Supervisor() as supervisor:
            made = AgentStage(Path(directory), broker, key, supervisor)
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


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: the directory that it is started in is no place to import from.
    return (sys.executable, "-P", "-m", module, *arguments)

"""Test an agent in trouble, with real processes, a broker that wants certificates, and an API by TLS: the clock of its
host is a day off, and then the API is away when its token ends. Nobody touches the agent, and no result is lost."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.state import writing_state
from schema.messages import ProtocolConfig
from testbed.agent_api import TOKEN_LIFETIME, AgentApi, CertifyingBroker, server_pair, told_broker
from testbed.fixtures.agent import AgentProcess, Pool, pool_of
from testbed.fixtures.broker import TRANSPORTS, Broker
from testbed.ntp.server import Fleet
from testbed.ntp.spec import ServerSpec
from testbed.waiting import wait_until

NAME = "trouble1-acc1.devel.mon.example"
DAY = 86400
SHORT = 20.0
"""Seconds until a token ends that is nearly over when it is issued."""

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t ahead(void)
{
	static const volatile int64_t *seconds;

	if (seconds == NULL) {
		int file = open(AHEAD, O_RDONLY | O_CLOEXEC);

		seconds = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
		close(file);
	}
	return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, clock, now);

	if (clock == CLOCK_REALTIME) {
		now->tv_sec += ahead();
	}
	return result;
}

time_t time(time_t *out)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (out != NULL) {
		*out = now.tv_sec;
	}
	return now.tv_sec;
}
"""


class HostClock:
    """The wall clock of the agent's host, for all of its processes; their monotonic clock goes on."""

    def __init__(self, directory: Path) -> None:
        source, self.library, self._ahead = (directory / name for name in ("clock.c", "clock.so", "ahead"))
        source.write_text(_SOURCE)
        self._ahead.write_bytes(bytes(8))
        subprocess.run(["cc", "-shared", "-fPIC", f'-DAHEAD="{self._ahead}"', "-o", self.library, source], check=True)

    def set(self, ahead: int) -> None:
        """Set it this many seconds ahead of the real time."""
        with self._ahead.open("r+b") as file:
            file.write(ahead.to_bytes(8, sys.byteorder, signed=True))


class ClockedAgent(AgentProcess):
    """An agent on a host that has its own clock, and is not set up."""

    def __init__(self, base: Path, broker: Broker, api: AgentApi, clock: HostClock) -> None:
        super().__init__(base, broker.via(TRANSPORTS[1]), NAME)
        self._clock = clock
        self.directory.token_file.unlink()
        self.directory.state_file.unlink()
        settings = {"MONITOR_API": api.url, "MONITOR_API_CA_FILE": broker.process.directory / "ca.pem"}
        (base / "defaults").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "LD_PRELOAD": str(self._clock.library)}

    def why_not(self) -> str:
        """Return why it does not probe, as its report says; empty while it probes."""
        report = self.report() or {}
        state = report.get("status", {}).get("protocols", {}).get("v4", {})
        return "" if state.get("probing") else str(state.get("why_not"))


async def kept(agent: ClockedAgent, pool: Pool, say: Callable[[], str]) -> set[str]:
    """Stop acknowledging, and return names of batches that the agent must keep."""
    pool.acknowledging = False
    before = len(pool.batches)
    await wait_until(lambda: len(pool.batches) > before and agent.spooled(), say)
    await wait_until(lambda: any(pool.batches[-1][1].id.encode() in path.read_bytes() for path in agent.spooled()), say)
    last = pool.batches[-1][1].id.encode()
    return {path.name for path in agent.spooled() if last in path.read_bytes()}


async def test_a_wrong_clock_and_a_token_that_ends_while_the_api_is_away_pass_without_a_hand(tmp_path: Path) -> None:
    clock = HostClock(tmp_path)
    with Broker(kind=CertifyingBroker) as broker:
        process = broker.process
        assert isinstance(process, CertifyingBroker)
        api = AgentApi(broker.key, issuer=process.issuer, name=NAME, tls=server_pair(process, tmp_path))
        api.broker = told_broker(process)
        with api, ClockedAgent(tmp_path, broker, api, clock) as agent:
            async with Fleet([ServerSpec(address="127.46.1.1", port=0)]) as fleet, pool_of(broker, NAME) as pool:
                [spec] = fleet.specs

                def say() -> str:
                    return f"{agent.log_text}\n{agent.report()}\n{[asked.path for asked in api.asked]}"

                check = [f"{spec.address}:{spec.port}"]
                await pool.configure(protocol=ProtocolConfig(status="active", samples=1, base_checks=check))
                await pool.assign(1, spec)
                await clock_is_wrong_from_the_beginning(agent, pool, clock, say)
                await clock_is_set_back_while_it_is_connected(agent, pool, clock, say)
                await token_ends_while_the_api_is_away(agent, pool, api, say)
                assert "Traceback" not in agent.log_text


async def clock_is_wrong_from_the_beginning(
    agent: ClockedAgent, pool: Pool, clock: HostClock, say: Callable[[], str]
) -> None:
    """In setup, at the start of the daemon, and in its renewals; then somebody sets the clock."""
    clock.set(DAY)
    done = await asyncio.to_thread(agent.run, "setup", "--hostname", "host.example", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this host's clock is 24h ahead of the API's" in done.stdout
    directory = agent.directory
    with writing_state(directory):
        directory.write_file(msgspec.structs.replace(directory.read_file(), allow_private_targets=True))
    agent.start()
    await wait_until(lambda: pool.status.online, say)
    await wait_until(lambda: "local clock check failed" in agent.why_not(), say)
    said = await asyncio.to_thread(agent.run, "status", timeout=240)
    assert "clock        this host's clock is 24h ahead of the API's" in said.stdout, said.stdout
    assert "broker" in said.stdout and ", connected" in said.stdout, said.stdout
    assert "clock is 24h ahead" in agent.log_text and not pool.batches
    clock.set(0)
    await wait_until(lambda: pool.probing() and pool.batches, say)


async def clock_is_set_back_while_it_is_connected(
    agent: ClockedAgent, pool: Pool, clock: HostClock, say: Callable[[], str]
) -> None:
    before = await kept(agent, pool, say)
    clock.set(-DAY)
    await wait_until(lambda: "local clock check failed" in agent.why_not(), say)
    agent.signal(signal.SIGHUP)  # which makes it ask the API now
    # Its certificates, of today, are not valid yet.
    await wait_until(
        lambda: "certificate is not yet valid; or this host's clock is wrong: it says" in agent.log_text, say
    )
    assert agent.report()["connected"], say()
    assert before <= {path.name for path in agent.spooled()}
    clock.set(0)
    pool.acknowledging = True
    await wait_until(lambda: pool.probing(), say)
    await wait_until(lambda: not before & {path.name for path in agent.spooled()}, say)


async def token_ends_while_the_api_is_away(
    agent: ClockedAgent, pool: Pool, api: AgentApi, say: Callable[[], str]
) -> None:
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    agent.directory.token_file.unlink()
    api.token_used = 1 - SHORT / TOKEN_LIFETIME.total_seconds()
    pool.batches.clear()
    agent.start()
    await wait_until(lambda: pool.batches, say)
    api.__exit__()
    await wait_until(lambda: not agent.report()["connected"], say)
    await wait_until(lambda: len(agent.spooled()) >= 2, say)
    assert agent.why_not() == "", "it goes on measuring"
    waiting = {path.name for path in agent.spooled()}
    said = await asyncio.to_thread(agent.run, "status", timeout=240)
    assert not any("refused" in trouble for trouble in agent.report()["troubles"]), "an API that is away is none"
    assert said.returncode == 1 and "not connected" in said.stdout, said.stdout
    assert "Connection refused; the agent asks again within 15 min, and keeps its results" in said.stdout, said.stdout
    api.token_used = 0.0
    with api:
        await wait_until(lambda: agent.report()["connected"], say)
        await wait_until(lambda: not waiting & {path.name for path in agent.spooled()}, say)
        assert agent.process is not None and agent.process.poll() is None

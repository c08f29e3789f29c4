"""Define the files of a system on this machine, and the command that starts each of its processes."""

import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sqlalchemy.engine import URL

from agent.state import Broker, State, StateDirectory, provision, write_token
from auth.tokens import Role, SigningKey, load_key, sign
from runtime.mqtt.types import BrokerAddress
from schema.names import short_name
from testbed.broker import LocalBroker
from testbed.ntp.spec import ServerSpec, encode_specs
from testbed.ports import ADDRESS, ADDRESS_V6, free_port
from testbed.process import Command
from testbed.world import ENV, Monitor, World

BROKER: Final = "broker"
FLEET: Final = "ntp servers"
FLEET_READY: Final = "ready\n"
WORKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": ("ingest",),
    "scorer": ("scorer",),
    "selector": ("selector", "server"),
}
"""The workers, and the arguments with which ``ntppool-monitor`` runs each of them."""

_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Variables to take from our environment. Settings of another pool on this machine must not reach this system."""


@dataclass(frozen=True, slots=True)
class Site:
    """The files, ports and keys of one system."""

    directory: Path
    database: URL
    key: SigningKey
    broker: LocalBroker
    broker_address: BrokerAddress
    """The address at which all processes reach the broker."""

    @property
    def logs(self) -> Path:
        """The directory of logs, one file per process."""
        return self.directory / "logs"

    @property
    def looking(self) -> Path:
        """The script with which a person inspects the running system: ``sh`` and this file act as ``ntppool-
        monitor``."""
        return self.directory / "monitor"

    def log_of(self, name: str) -> Path:
        """Return the log file of the process with this name."""
        return self.logs / f"{name.replace(' ', '-')}.log"

    def agent_directory(self, monitor: Monitor) -> StateDirectory:
        """Return the state directory of this monitor's agent."""
        return StateDirectory(self.directory / "agents" / short_name(monitor.name), ENV)

    def settings(self) -> dict[str, str]:
        """Return the workers' environment; the secrets in it are nowhere else."""
        return {
            "DEPLOYMENT_MODE": ENV,
            **broker_settings(self.broker_address),
            "JWT_KEY_FILE": str(self.directory / "jwt.key"),
            "DATABASE_DSN": self.database.render_as_string(hide_password=False),
        }


def broker_settings(address: BrokerAddress) -> dict[str, str]:
    """Return the environment variables that give a worker the broker's address."""
    tls = {} if address.ca_file is None else {"MQTT_CA_FILE": str(address.ca_file)}
    return {"MQTT_HOST": address.host, "MQTT_PORT": str(address.port), **tls}


def broker_of_agent(address: BrokerAddress) -> Broker:
    """Return the broker's address for an agent's state."""
    ca_file = None if address.ca_file is None else str(address.ca_file)
    return Broker(host=address.host, port=address.port, ca_file=ca_file)


def make_site(directory: Path, database: URL | None, *, tls: bool = False, ipv6: bool = False) -> Site:
    """Prepare ``directory`` with a new key, and with settings for inspecting the running system.

    Args:
        tls, ipv6: how all processes reach the broker.

    Raises:
        BrokerUnavailable: Mosquitto or its plugin is missing.
    """
    secret = secrets.token_urlsafe(48)
    key = load_key(secret)
    url = database or URL.create("sqlite", database=str(directory / "ledger.db"))
    broker = LocalBroker(directory / "broker", free_port(), key.verification_text())
    site = Site(directory, url, key, broker, broker.address(ADDRESS_V6 if ipv6 else ADDRESS, tls=tls))
    site.logs.mkdir(mode=0o700)
    _write_private(directory / "jwt.key", secret + "\n")
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in site.settings().items()]
    _write_private(directory / "env", "".join(lines))
    # It must work from any directory, with any PATH, and on a file system mounted noexec.
    program = shlex.join(_python("ops"))
    _write_private(site.looking, f'. {shlex.quote(str(directory / "env"))}\nexec {program} "$@"\n')
    return site


def provision_agent(base: Path, name: str, broker: BrokerAddress, token: str) -> StateDirectory:
    """Write the identity and a token into the state directory ``base`` of an agent, in place of a registration."""
    state = State(name=name, broker=broker_of_agent(broker), allow_private_targets=True)
    return provision(base, ENV, state, token)


def provision_agents(site: Site, world: World) -> None:
    """Provision the agent of every monitor."""
    for monitor in world.monitors:
        token = monitor_token(site.key, monitor.name)
        provision_agent(site.agent_directory(monitor).path.parent, monitor.name, site.broker_address, token)


def renew_tokens(site: Site, monitors: Iterable[Monitor]) -> None:
    """Give every agent a new token."""
    for monitor in monitors:
        write_token(site.agent_directory(monitor), monitor_token(site.key, monitor.name))


def monitor_token(key: SigningKey, name: str) -> str:
    """Sign a new token for this monitor."""
    return sign(key, Role.MONITOR, name, ENV)


def broker_command(site: Site) -> Command:
    """Write the broker's configuration, and return its command."""
    return make_command(site, BROKER, site.broker.prepare(), {})


def fleet_command(site: Site, servers: Sequence[ServerSpec]) -> Command:
    """Write the specifications of the simulated NTP servers, and return the command that runs them. They are ready when
    the log shows :data:`FLEET_READY`."""
    path = site.directory / "fleet.json"
    path.write_bytes(encode_specs(servers))
    return python_command(site, FLEET, "testbed.ntp", "fleet", str(path))


def worker_command(site: Site, name: str) -> Command:
    """Return the command for one of :data:`WORKERS`."""
    return python_command(site, name, "ops", *WORKERS[name], settings=site.settings())


def agent_command(site: Site, monitor: Monitor) -> Command:
    """Return the command for this monitor's agent."""
    settings = agent_settings(site.agent_directory(monitor).path.parent)
    return python_command(site, agent_name(monitor), "agent", "monitor", settings=settings)


def agent_settings(base: Path) -> dict[str, str]:
    """Return the environment of an agent with the state directory ``base``."""
    return {
        "DEPLOYMENT_MODE": ENV,
        "MONITOR_STATE_DIR": str(base),
        "MONITOR_DEFAULTS_FILE": os.devnull,  # not those of an agent installed on this machine
    }


def agent_name(monitor: Monitor) -> str:
    """Return the process's name."""
    return f"agent {short_name(monitor.name)}"


def python_command(
    site: Site, name: str, module: str, *arguments: str, settings: Mapping[str, str] = MappingProxyType({})
) -> Command:
    """Return the command for one of our modules."""
    return make_command(site, name, _python(module, *arguments), settings)


def make_command(site: Site, name: str, argv: Sequence[str], settings: Mapping[str, str]) -> Command:
    """Return the command for a program, with ``settings`` as the only variables of ours in its environment."""
    inherited = {variable: os.environ[variable] for variable in _INHERITED if variable in os.environ}
    env = {**inherited, "HOME": str(site.directory), **settings}
    return Command(name, argv, env, site.log_of(name), site.directory)


def _python(module: str, *arguments: str) -> list[str]:
    # -P: do not import from the current directory.
    return [sys.executable, "-P", "-m", module, *arguments]


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def free_ntp_port(addresses: Iterable[str]) -> int:
    """Find a UDP port that is free on all of these addresses.

    Raises:
        OSError: there is none, or this machine does not have an address.
    """
    wanted = list(addresses)
    for _ in range(20):
        with socket.socket(type=socket.SOCK_DGRAM) as first:
            first.bind((ADDRESS, 0))
            port = int(first.getsockname()[1])
        if all(_is_free(address, port) for address in wanted):
            return port
    raise OSError("no UDP port is free on all addresses of the simulated servers")


def _is_free(address: str, port: int) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True

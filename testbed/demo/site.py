"""Where everything of a demo is, and how each of its processes is started."""

import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from agent.state import Broker, State, StateDirectory, provision, write_token
from auth.tokens import Role, SigningKey, load_key, sign
from runtime.mqtt.types import BrokerAddress
from schema.names import short_name
from testbed.broker import LocalBroker
from testbed.demo.process import Command
from testbed.demo.world import ENV, Monitor, World
from testbed.ntp.spec import encode_specs
from testbed.ports import ADDRESS, ADDRESS_V6, free_port

BROKER: Final = "broker"
FLEET: Final = "ntp servers"
WORKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": ("ingest",),
    "scorer": ("scorer",),
    "selector": ("selector", "server"),
}
"""Our workers, and how ``ntppool-monitor`` is told to be one."""

_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Of our environment. Settings of another pool on this machine must not reach the demo."""


@dataclass(frozen=True, slots=True)
class Site:
    """The files, ports and keys of one demo."""

    directory: Path
    database: URL
    key: SigningKey
    broker: LocalBroker
    broker_address: BrokerAddress
    """How all others reach the broker."""

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.directory / "logs"

    @property
    def looking(self) -> Path:
        """A script for whoever wants to look into the running demo: ``sh`` and this are ``ntppool-monitor``."""
        return self.directory / "monitor"

    def log_of(self, name: str) -> Path:
        """The log of the process that is called so."""
        return self.logs / f"{name.replace(' ', '-')}.log"

    def agent_directory(self, monitor: Monitor) -> StateDirectory:
        """The state of the agent that is this monitor."""
        return StateDirectory(self.directory / "agents" / short_name(monitor.name), ENV)

    def settings(self) -> dict[str, str]:
        """What the workers are told through their environment; what is secret in it goes nowhere else."""
        return {
            "DEPLOYMENT_MODE": ENV,
            **broker_settings(self.broker_address),
            "JWT_KEY_FILE": str(self.directory / "jwt.key"),
            "DATABASE_DSN": self.database.render_as_string(hide_password=False),
        }


def broker_settings(address: BrokerAddress) -> dict[str, str]:
    """How a worker's environment names a broker."""
    tls = {} if address.ca_file is None else {"MQTT_CA_FILE": str(address.ca_file)}
    return {"MQTT_HOST": address.host, "MQTT_PORT": str(address.port), **tls}


def broker_of_agent(address: BrokerAddress) -> Broker:
    """How an agent's state names a broker."""
    ca_file = None if address.ca_file is None else str(address.ca_file)
    return Broker(host=address.host, port=address.port, ca_file=ca_file)


def make_site(directory: Path, database: URL | None, *, tls: bool = False, ipv6: bool = False) -> Site:
    """Prepares ``directory``: a new key, and settings for whoever wants to look into the running demo.

    Args:
        tls, ipv6: how everybody reaches the broker.

    Raises:
        BrokerUnavailable: Mosquitto or its plugin are missing.
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
    # Wherever it is called from, whatever is in the PATH there, and where files here cannot be executed.
    program = shlex.join(_python("ops"))
    _write_private(site.looking, f'. {shlex.quote(str(directory / "env"))}\nexec {program} "$@"\n')
    return site


def provision_agents(site: Site, world: World) -> None:
    """Gives every agent its identity and a token, as its registration would."""
    for monitor in world.monitors:
        state = State(
            name=monitor.name,
            broker=broker_of_agent(site.broker_address),
            allow_private_targets=True,
        )
        provision(site.agent_directory(monitor).path.parent, ENV, state, monitor_token(site, monitor))


def renew_tokens(site: Site, monitors: Iterable[Monitor]) -> None:
    """Gives every agent a new token."""
    for monitor in monitors:
        write_token(site.agent_directory(monitor), monitor_token(site, monitor))


def monitor_token(site: Site, monitor: Monitor) -> str:
    """A fresh token of this monitor."""
    return sign(site.key, Role.MONITOR, monitor.name, ENV)


def broker_command(site: Site) -> Command:
    """The broker, with its configuration written."""
    return _command(site, BROKER, site.broker.prepare(), {})


def fleet_command(site: Site, world: World) -> Command:
    """The simulated NTP servers, with their specifications written."""
    path = site.directory / "fleet.json"
    path.write_bytes(encode_specs(world.fleet))
    return _command(site, FLEET, _python("testbed.ntp", "fleet", str(path)), {})


def worker_command(site: Site, name: str) -> Command:
    """One of :data:`WORKERS`."""
    return _command(site, name, _python("ops", *WORKERS[name]), site.settings())


def agent_command(site: Site, monitor: Monitor) -> Command:
    """The agent that is this monitor."""
    env = {
        "DEPLOYMENT_MODE": ENV,
        "MONITOR_STATE_DIR": str(site.agent_directory(monitor).path.parent),
        "MONITOR_DEFAULTS_FILE": os.devnull,  # not those of an agent that is installed on this machine
    }
    return _command(site, agent_name(monitor), _python("agent", "monitor"), env)


def agent_name(monitor: Monitor) -> str:
    """What the process is called."""
    return f"agent {short_name(monitor.name)}"


def python_command(site: Site, name: str, module: str, *arguments: str) -> Command:
    """Any other of our modules, without settings."""
    return _command(site, name, _python(module, *arguments), {})


def _command(site: Site, name: str, argv: list[str], env: Mapping[str, str]) -> Command:
    inherited = {variable: os.environ[variable] for variable in _INHERITED if variable in os.environ}
    return Command(name, argv, {**inherited, "HOME": str(site.directory), **env}, site.log_of(name), site.directory)


def _python(module: str, *arguments: str) -> list[str]:
    # -P: the directory that it is started in is no place to import from.
    return [sys.executable, "-P", "-m", module, *arguments]


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def free_ntp_port(addresses: Iterable[str]) -> int:
    """A UDP port that is free on all of these addresses right now.

    Raises:
        OSError: there is none, or an address is not ours.
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

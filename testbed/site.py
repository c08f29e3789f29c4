"""Define the files of a system on this machine, and the command that starts each of its processes."""

import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sqlalchemy.engine import URL

from agent.state import Broker, State, StateDirectory, provision
from auth.ca.authority import DEFAULT_LIFETIME
from auth.ca.files import FileAuthority
from auth.ca.request import new_key
from auth.tokens import Role, SigningKey, load_key, sign
from runtime.db.dsn import dsn_text
from runtime.mqtt.types import BrokerAddress
from schema.names import short_name
from testbed.broker_process import BrokerProcess
from testbed.brokers import MOSQUITTO, make_broker, new_token_key
from testbed.ntp.spec import ServerSpec, encode_specs
from testbed.paths import certificate_files
from testbed.ports import ADDRESS, ADDRESS_V6, free_port, loopback_addresses
from testbed.process import Command
from testbed.world import DOMAIN, ENV, Monitor

BROKER: Final = "broker"
"""The broker's name among the processes. Further nodes of a cluster have a number behind it."""
FLEET: Final = "ntp servers"
FLEET_READY: Final = "ready\n"
WORKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": ("ingest",),
    "scorer": ("scorer",),
    "selector": ("selector", "server"),
}
"""The workers, and the arguments with which ``ntppool-monitor`` runs each of them."""
API: Final = "api"
API_READY: Final = "listening on "
WEB: Final = "web"

_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Variables to take from our environment. Settings of another pool on this machine must not reach this system."""


@dataclass(frozen=True, slots=True)
class ApiPlace:
    """Where a system's management API is, and the certificates that it shows and issues."""

    port: int
    authority: FileAuthority
    directory: Path
    """Contains the API's own certificate and key."""

    @property
    def url(self) -> str:
        """The URL for agents, by IPv4."""
        return f"https://{ADDRESS}:{self.port}"

    @property
    def trusted(self) -> Path:
        """The roots that agents must trust."""
        return self.directory / "api-ca.pem"

    def settings(self, broker: BrokerProcess, host: str) -> dict[str, str]:
        """Return the API's own settings; agents connect to ``broker`` by TLS, at the address ``host``."""
        address = broker.address(host, tls=True)
        return {
            "API_ADDRESS": ",".join(loopback_addresses()),
            "API_PORT": str(self.port),
            "API_CERT_FILE": str(self.directory / "api-cert.pem"),
            "API_KEY_FILE": str(self.directory / "api-key.pem"),
            "API_BROKER_HOST": address.host,
            "API_BROKER_PORT": str(address.port),
            "API_BROKER_CA_FILE": str(address.ca_file),
            "CA_DIRECTORY": str(self.authority.directory),
            "CA_CRL_FILE": str(broker.crl_file),
            "MONITORS_DOMAIN": DOMAIN,
        }


@dataclass(frozen=True, slots=True)
class Site:
    """The files, ports and keys of one system."""

    directory: Path
    database: URL
    key: SigningKey
    broker: BrokerProcess
    broker_address: BrokerAddress
    """The address at which all processes reach the broker; agents that register learn theirs from the API."""
    api: ApiPlace | None = None
    """None: agents are provisioned without a registration."""
    other_nodes: Sequence[BrokerProcess] = ()
    """The other nodes, if the broker is a cluster."""
    web_port: int | None = None
    """Port of the public pages; None: there are none."""

    @property
    def logs(self) -> Path:
        """The directory of logs, one file per process."""
        return self.directory / "logs"

    @property
    def looking(self) -> Path:
        """The script with which a person inspects the running system: ``sh`` and this file act as ``ntppool-
        monitor``."""
        return self.directory / "monitor"

    @property
    def web_url(self) -> str:
        """The address of the public pages."""
        return f"http://{ADDRESS}:{self.web_port}/"

    @property
    def nodes(self) -> Sequence[BrokerProcess]:
        """All nodes of the broker."""
        return (self.broker, *self.other_nodes)

    def address_for(self, process: str) -> BrokerAddress:
        """Return the broker's address for a worker: in a cluster, each of them has another node."""
        place = [*WORKERS, API].index(process) % len(self.nodes)
        if place == 0:
            return self.broker_address
        node = self.nodes[place]
        return replace(self.broker_address, port=node.tls_port if self.broker_address.ca_file else node.port)

    def log_of(self, name: str) -> Path:
        """Return the log file of the process with this name."""
        return self.logs / f"{name.replace(' ', '-')}.log"

    def agent_directory(self, monitor: Monitor) -> StateDirectory:
        """Return the state directory of this monitor's agent."""
        return StateDirectory(self.directory / "agents" / short_name(monitor.name), ENV)

    def settings(self, process: str = API) -> dict[str, str]:
        """Return the environment of a worker, or of an operator's command; the secrets in it are nowhere else."""
        # In a cluster, agents and ingest are at different nodes.
        for_agents = self.nodes[len(self.nodes) // 2]
        return {
            "DEPLOYMENT_MODE": ENV,
            **broker_settings(self.address_for(process)),
            "JWT_KEY_FILE": str(self.directory / "jwt.key"),
            "DATABASE_DSN": dsn_text(self.database, hide_password=False),
            **({} if self.api is None else self.api.settings(for_agents, self.broker_address.host)),
        }


def broker_settings(address: BrokerAddress) -> dict[str, str]:
    """Return the environment variables that give a worker the broker's address."""
    files = {"MQTT_CA_FILE": address.ca_file, "MQTT_CERT_FILE": address.cert_file, "MQTT_KEY_FILE": address.key_file}
    tls = {name: str(path) for name, path in files.items() if path is not None}
    return {"MQTT_HOST": address.host, "MQTT_PORT": str(address.port), **tls}


def broker_of_agent(address: BrokerAddress) -> Broker:
    """Return the broker's address for an agent's state."""
    ca_file = None if address.ca_file is None else str(address.ca_file)
    return Broker(host=address.host, port=address.port, ca_file=ca_file)


def make_site(
    directory: Path,
    database: URL | None,
    *,
    broker: str = MOSQUITTO,
    tls: bool = False,
    ipv6: bool = False,
    registering: bool = False,
    web: bool = False,
) -> Site:
    """Prepare ``directory`` with a new key, and with settings for inspecting the running system.

    Args:
        broker: one of :data:`testbed.brokers.BROKERS`.
        tls, ipv6: how all processes reach the broker.
        registering: with an API and a CA; agents then register, and reach the broker by TLS with client certificates.
        web: with public pages.

    Raises:
        BrokerUnavailable: the broker, or Mosquitto's plugin, is missing.
    """
    secret = secrets.token_urlsafe(48) if broker == MOSQUITTO else new_token_key()
    key = load_key(secret)
    url = database or URL.create("sqlite", database=str(directory / "ledger.db"))
    api = _make_api(directory) if registering else None
    authority = None if api is None else api.authority
    first, *others = make_broker(broker, directory / "broker", key.verification_text(), authority)
    address = first.address(ADDRESS_V6 if ipv6 else ADDRESS, tls=tls)
    if tls and api is not None:
        files = _certify(api.authority, directory, "worker", client=True)
        address = replace(address, cert_file=files[0], key_file=files[1])
    site = Site(directory, url, key, first, address, api, others, free_port() if web else None)
    site.logs.mkdir(mode=0o700)
    write_private(directory / "jwt.key", secret + "\n")
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in site.settings().items()]
    write_private(directory / "env", "".join(lines))
    # It must work from any directory, with any PATH, and on a file system mounted noexec.
    program = shlex.join(_python("ops"))
    write_private(site.looking, f'. {shlex.quote(str(directory / "env"))}\nexec {program} "$@"\n')
    return site


def _make_api(directory: Path) -> ApiPlace:
    authority = FileAuthority(directory / "ca", ENV)
    authority.create()
    place = ApiPlace(free_port(), authority, directory)
    _certify(authority, directory, API)
    place.trusted.write_text(authority.bundle(), encoding="ascii")
    return place


def _certify(authority: FileAuthority, directory: Path, name: str, *, client: bool = False) -> tuple[Path, Path]:
    """Write the certificate and the key of one of our own processes; return both files."""
    made = new_key()
    signed = authority.sign_server(made.request, ["localhost", *loopback_addresses()], DEFAULT_LIFETIME, client=client)
    return _write_pair(directory, name, signed.chain, made.key)


def certify_monitors(authority: FileAuthority, directory: Path, names: Iterable[str]) -> None:
    """Write certificates and keys of monitors into ``directory``, which is created."""
    directory.mkdir(mode=0o700)
    for name in names:
        made = new_key()
        signed = authority.sign_monitor(made.request, name, DEFAULT_LIFETIME)
        _write_pair(directory, name, signed.chain, made.key)


def _write_pair(directory: Path, name: str, chain: str, private: str) -> tuple[Path, Path]:
    certificate, key = certificate_files(directory, name)
    certificate.write_text(chain, encoding="ascii")
    write_private(key, private)
    return certificate, key


def provision_agent(base: Path, name: str, broker: BrokerAddress, token: str) -> StateDirectory:
    """Write the identity and a token into the state directory ``base`` of an agent, in place of a registration."""
    state = State(name=name, broker=broker_of_agent(broker), allow_private_targets=True)
    return provision(base, ENV, state, token)


def monitor_token(key: SigningKey, name: str) -> str:
    """Sign a new token for this monitor."""
    return sign(key, Role.MONITOR, name, ENV)


def broker_commands(site: Site) -> list[Command]:
    """Write the configuration of the broker, and return the command of each node, to be started in this order."""
    names = [BROKER] + [f"{BROKER} {number}" for number in range(2, len(site.nodes) + 1)]
    return [make_command(site, name, node.prepare(), {}) for name, node in zip(names, site.nodes, strict=True)]


def fleet_command(site: Site, servers: Sequence[ServerSpec]) -> Command:
    """Write the specifications of the simulated NTP servers, and return the command that runs them. They are ready when
    the log shows :data:`FLEET_READY`."""
    path = site.directory / "fleet.json"
    path.write_bytes(encode_specs(servers))
    return python_command(site, FLEET, "testbed.ntp", "fleet", str(path))


def worker_command(site: Site, name: str) -> Command:
    """Return the command for one of :data:`WORKERS`."""
    return python_command(site, name, "ops", *WORKERS[name], settings=site.settings(name))


def api_command(site: Site) -> Command:
    """Return the command for the management API. It is ready when the log shows :data:`API_READY`."""
    return python_command(site, API, "ops", API, settings=site.settings())


def web_command(site: Site) -> Command:
    """Return the command for the public pages, which get no secret. They are ready when the log shows
    :data:`API_READY`."""
    settings = {
        "DEPLOYMENT_MODE": ENV,
        "DATABASE_DSN": dsn_text(site.database, hide_password=False),
        "WEB_ADDRESS": ADDRESS,
        "WEB_PORT": str(site.web_port),
    }
    return python_command(site, WEB, "ops", WEB, settings=settings)


def setup_command(site: Site, monitor: Monitor) -> Command:
    """Return the command that registers this monitor's host."""
    assert site.api is not None
    settings = agent_settings(site.agent_directory(monitor).path.parent) | {
        "MONITOR_API": site.api.url,
        "MONITOR_API_CA_FILE": str(site.api.trusted),
        "MONITOR_API_BIND": monitor.ip,
        "MONITOR_IPV6": "false",
    }
    arguments = ("setup", "--yes", "--hostname", short_name(monitor.name), "--account", monitor.account_token)
    return python_command(site, f"setup {short_name(monitor.name)}", "agent", *arguments, settings=settings)


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


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
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

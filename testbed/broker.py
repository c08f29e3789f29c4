"""Run the pool's broker on this machine: the real configuration and the real plugin of Mosquitto.

For the demo, the tests and the benchmarks. An installed system runs its broker as a service instead.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from auth.ca.files import FileAuthority
from testbed.broker_process import BrokerProcess, BrokerUnavailable
from testbed.paths import CHECKOUT
from testbed.ports import loopback_addresses

__all__ = ["RUNNING", "BrokerParts", "BrokerUnavailable", "LocalBroker", "find_parts", "render"]

_CHECKOUT: Final = CHECKOUT / "broker-config"
_COMMON: Final = (_CHECKOUT / "common", Path("/usr/share/ntppool-monitor/broker-config/common"))
_PLUGIN: Final = (_CHECKOUT / "jwt-auth/build/jwt-auth.so", Path("/usr/lib/ntppool-monitor/jwt-auth.so"))
_SBIN: Final = ":/usr/sbin:/usr/local/sbin"
RUNNING: Final = " running\n"
"""The log line with which Mosquitto reports that it is running."""


@dataclass(frozen=True, slots=True)
class BrokerParts:
    """The files that a broker needs."""

    program: Path
    plugin: Path
    common: Path
    """The directory with the part of the configuration that all environments share."""


def find_parts() -> BrokerParts:
    """Find the parts in this checkout, or else the installed ones.

    Raises:
        BrokerUnavailable: a part is missing.
    """
    program = shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + _SBIN)
    if program is None:
        raise BrokerUnavailable("mosquitto is not installed: run scripts/bootstrap")
    return BrokerParts(
        Path(program), _first_of(_PLUGIN, "the broker's plugin"), _first_of(_COMMON, "its configuration")
    )


def _first_of(paths: Sequence[Path], what: str) -> Path:
    for path in paths:
        if path.exists():
            return path.resolve()
    raise BrokerUnavailable(f"{what} is not at {' or '.join(map(str, paths))}: run scripts/bootstrap")


def render(parts: BrokerParts, directory: Path, port: int, tls_port: int, *, client_certificates: bool = False) -> str:
    """Render the configuration of a broker that keeps its files in ``directory`` and listens on loopback only.

    On ``tls_port`` it uses TLS as the pool's brokers do: version 1.2 or newer.

    Args:
        client_certificates: require some on ``tls_port``: of a root in ``ca.pem``, and not revoked in ``crl.pem``.
    """
    tls = [
        "tls_version tlsv1.2",
        f"cafile {directory / 'ca.pem'}",
        f"certfile {directory / 'cert.pem'}",
        f"keyfile {directory / 'key.pem'}",
        f"require_certificate {'true' if client_certificates else 'false'}",
        *([f"crlfile {directory / 'crl.pem'}"] if client_certificates else []),
    ]
    lines = [
        *as_our_user(),
        f"include_dir {parts.common}",
        f"plugin {parts.plugin}",
        f"plugin_opt_key_file {directory / 'jwt.key'}",
        f"plugin_opt_previous_key_file {directory / 'jwt-previous.key'}",
        f"plugin_opt_revocations_file {directory / 'revocations'}",
        f"persistence_location {directory}/",
    ]
    for address in loopback_addresses():
        lines += [f"listener {port} {address}", f"listener {tls_port} {address}", *tls]
    return "\n".join(lines) + "\n"


def as_our_user() -> list[str]:
    """Return the lines that make Mosquitto stay the user who starts it. Started by root, it would change to a user who
    cannot read its directory."""
    return ["user root"] if os.geteuid() == 0 else []


class LocalBroker(BrokerProcess):
    """Run Mosquitto; see :class:`BrokerProcess`.

    Args:
        parts: default: those of :func:`find_parts`.
    """

    ready = RUNNING

    def __init__(
        self,
        directory: Path,
        port: int,
        key: str,
        *,
        parts: BrokerParts | None = None,
        authority: FileAuthority | None = None,
    ) -> None:
        self.parts = parts or find_parts()
        super().__init__(directory, port, key, authority=authority)

    def prepare(self) -> list[str]:
        """Write the broker's files, and return the command that runs it in the foreground."""
        self._write("jwt.key", self._key)
        self._write_certificates()
        self._write("broker.conf", self.configuration())
        return [str(self.parts.program), "-c", str(self.directory / "broker.conf")]

    def configuration(self) -> str:
        """Return the configuration."""
        strict = self.authority is not None
        return render(self.parts, self.directory, self.port, self.tls_port, client_certificates=strict)

    def reload(self) -> None:
        """Make the broker read keys and certificate again, which it does and logs within a tenth of a second."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

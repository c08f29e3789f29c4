"""Define the package ``ntppool-monitor``, the pool's side: for the suite on which it is built.

The broker's plugin needs the suite's libraries, and its compiled modules are for the suite's Python only.
"""

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ntppool_packages.commands import read_commands
from ntppool_packages.completion import bash_completion
from ntppool_packages.documents import changelog, copyright_file
from ntppool_packages.environment import add_environment, add_recompilation, site_packages
from ntppool_packages.errors import CannotBuild
from ntppool_packages.manual import manual
from ntppool_packages.nfpm import EPOCH, SYSUSERS, Package
from ntppool_packages.plugin import PLUGIN
from ntppool_packages.source import ROOT, Source, committed_files
from ntppool_packages.tree import Tree
from ntppool_packages.wheels import MACHINES, Wheel, merge
from ops.__main__ import app

NAME: Final = "ntppool-monitor"
LOCK: Final = ROOT / "requirements" / "server.txt"

_FOLDERS: Final = ("agent", "api", "auth", "ingest", "notifier", "ops", "runtime", "schema", "scorer", "selector")
_NOT_PACKAGED: Final = ("demo",)
"""Commands that only a checkout has."""

_SUMMARY: Final = "stores, scores and directs the measurements of an NTP pool"
_DESCRIPTION: Final = """\
The pool's side of NTP Pool Monitor: workers, which store the results of
agents, score the servers, and decide which monitors measure which server;
the management API, at which hosts register; the plugin by which the broker
Mosquitto checks tokens; and the commands of operators.

It contains the libraries that it needs."""


def suite_python() -> str:
    """Return the version of this system's Python, such as ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def architecture() -> str:
    """Return Debian's name of this machine's architecture.

    Raises:
        CannotBuild: it is not supported.
    """
    machine = platform.machine()
    for name, kernel_name in MACHINES.items():
        if kernel_name == machine:
            return name
    raise CannotBuild(f"{machine}: not a supported architecture")


def suite() -> str:
    """Return a word for this system's suite, for the version: ``deb12``, ``ubuntu24.04``, or a suite's name.

    Raises:
        CannotBuild: this is not a system with packages of Debian's format.
    """
    system = platform.freedesktop_os_release()
    kind = {"debian": "deb", "ubuntu": "ubuntu"}.get(system["ID"])
    if kind is None:
        raise CannotBuild(f"{system['ID']}: the server's package is built on Debian or Ubuntu")
    return f"{kind}{system['VERSION_ID']}" if "VERSION_ID" in system else system.get("VERSION_CODENAME", "sid")


def monitor_package(
    version: str, wheels: Sequence[Wheel], plugin: Path, libraries: Sequence[str], source: Source
) -> Package:
    """Return the package.

    Args:
        plugin: the compiled plugin.
        libraries: the packages of the libraries that it loads.
    """
    release = f"1~{suite()}"
    tree = Tree()
    add_environment(tree, NAME, [suite_python()], _modules(wheels, source), "ops.__main__")
    add_recompilation(tree, NAME)
    tree.add(f"/usr/lib/{NAME}/{PLUGIN}", plugin.read_bytes())
    _add_configuration(tree, committed_files("deploy", "broker-config", "packaging/monitor"))
    program = read_commands(app, without=_NOT_PACKAGED)
    tree.add_compressed(f"/usr/share/man/man8/{NAME}.8", manual(f"monitor/{NAME}.8", program, version, source.time))
    tree.add(f"/usr/share/bash-completion/completions/{NAME}", bash_completion(NAME, program))
    tree.add_compressed(
        f"/usr/share/doc/{NAME}/changelog.Debian", changelog(NAME, f"{EPOCH}:{version}-{release}", source)
    )
    tree.add(f"/usr/share/doc/{NAME}/copyright", copyright_file(site_packages(NAME), wheels))
    tree.own_directories(f"/usr/lib/{NAME}", f"/usr/share/{NAME}", f"/usr/share/doc/{NAME}", f"/etc/{NAME}")
    return Package(
        "deb",
        NAME,
        version,
        release,
        architecture(),
        _SUMMARY,
        _DESCRIPTION,
        [
            *_python_depends(),
            *libraries,
            "ca-certificates",
            "openssl",
            SYSUSERS,
        ],
        ["mosquitto (>= 2.0.11)", "default-mysql-server | mariadb-server | virtual-mysql-server", "bash-completion"],
        _scripts(),
        tree,
    )


def _modules(wheels: Sequence[Wheel], source: Source) -> dict[str, bytes]:
    """Return all modules, and our metadata: the workers report the version that they read there."""
    metadata = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {source.version}\n".encode()
    ours = {f"ntppool_monitor-{source.version}.dist-info/METADATA": metadata}
    return {**merge(wheels), **committed_files(*_FOLDERS), **ours}


def _add_configuration(tree: Tree, committed: Mapping[str, bytes]) -> None:
    """Add units, users, the example of settings, and the configuration of broker, Prometheus and Grafana."""
    for path, content in committed.items():
        file = Path(path).name
        if path.startswith("deploy/systemd/ntppool-") and file.endswith(("@.service", "@.path")):
            if not file.startswith("ntppool-agent"):
                tree.add(f"/usr/lib/systemd/system/{file}", content)
        elif path.startswith("broker-config/") and file.endswith(".conf"):
            tree.add(f"/usr/share/{NAME}/broker/{path.removeprefix('broker-config/')}", content)
        elif path.startswith(("deploy/prometheus/", "deploy/grafana/")):
            tree.add(f"/usr/share/{NAME}/{path.removeprefix('deploy/')}", content)
    tree.add(f"/usr/lib/sysusers.d/{NAME}.conf", committed["deploy/systemd/ntppool-monitor.sysusers"])
    tree.add(f"/usr/share/{NAME}/example.env", committed["deploy/systemd/ntppool-monitor.env"])
    tree.add(f"/usr/share/lintian/overrides/{NAME}", committed["packaging/monitor/lintian-overrides"])


def _python_depends() -> list[str]:
    major, minor = sys.version_info[:2]
    return [f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})"]


def _scripts() -> dict[str, str]:
    names = {"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"}
    committed = committed_files("packaging/monitor/deb")
    return {name: committed[f"packaging/monitor/deb/{file}"].decode() for name, file in names.items()}

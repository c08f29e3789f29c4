"""Define the package ``ntppool-monitor``, the pool's side.

The deb is for the suite on which it is built: it contains the broker's plugin, compiled for the suite's Mosquitto and
libjwt, and compiled modules for the suite's Python only. The rpm is for several distributions, for none of which the
plugin can be compiled here: it has modules for several versions of Python, the plugin's source, and a program that
compiles it.
"""

import platform
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ntppool_packages.commands import read_commands
from ntppool_packages.completion import bash_completion
from ntppool_packages.documents import changelog, copyright_file
from ntppool_packages.environment import add_environment, add_recompilation, site_packages
from ntppool_packages.errors import CannotBuild
from ntppool_packages.manual import manual
from ntppool_packages.nfpm import EPOCH, SYSUSERS, Format, Package
from ntppool_packages.plugin import PLUGIN
from ntppool_packages.source import ROOT, Source, committed_files
from ntppool_packages.tree import PROGRAM, Tree
from ntppool_packages.wheels import MACHINES, Wheel, merge
from ops.__main__ import app

NAME: Final = "ntppool-monitor"
LOCK: Final = ROOT / "requirements" / "server.txt"

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python for which the rpm has compiled modules."""

_PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: Final = tuple(
    pattern.removesuffix("*") for pattern in _PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
)
"""The folders of modules, as in the wheel."""

_NOT_PACKAGED: Final = ("demo",)
"""Commands that only a checkout has."""

_SUMMARY: Final = "stores, scores and directs the measurements of an NTP pool"
_DESCRIPTION: Final = """\
The pool's side of NTP Pool Monitor: workers, which store the results of
agents, score the servers, and decide which monitors measure which server;
the management API, at which hosts register; the plugin by which the broker
Mosquitto checks tokens; and the commands of operators.

It contains the libraries that it needs."""

_SCRIPTS: Final[Mapping[Format, Mapping[str, str]]] = {
    "deb": {"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"},
    "rpm": {"postinstall": "post", "preremove": "preun", "postremove": "postun"},
}
"""The file in ``packaging/monitor/FORMAT`` of each script, by nfpm's name."""


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


def monitor_deb(
    version: str, wheels: Sequence[Wheel], plugin: Path, libraries: Sequence[str], source: Source
) -> Package:
    """Return the deb for this system's suite.

    Args:
        wheels: those for this system's Python.
        plugin: the compiled plugin.
        libraries: the packages of the libraries that it loads.
    """
    release = f"1~{suite()}"
    tree = _tree(version, [suite_python()], wheels, source)
    add_recompilation(tree, NAME)
    tree.add(f"/usr/lib/{NAME}/{PLUGIN}", plugin.read_bytes())
    tree.add(f"/usr/share/lintian/overrides/{NAME}", _committed("lintian-overrides"))
    tree.add_compressed(
        f"/usr/share/doc/{NAME}/changelog.Debian", changelog(NAME, f"{EPOCH}:{version}-{release}", source)
    )
    depends = [*_python_depends(), *libraries, "ca-certificates", "openssl", SYSUSERS]
    recommends = [
        "mosquitto (>= 2.0.11)",
        "default-mysql-server | mariadb-server | virtual-mysql-server",
        "bash-completion",
    ]
    return _package("deb", version, release, architecture(), depends, recommends, tree)


def monitor_rpm(version: str, machine: str, wheels: Sequence[Wheel], source: Source) -> Package:
    """Return the rpm.

    Args:
        machine: Debian's name of the architecture.
        wheels: those for all of ``PYTHONS``.
    """
    tree = _tree(version, PYTHONS, wheels, source)
    for path, content in committed_files("broker-config/jwt-auth").items():
        file = Path(path).name
        if file == "Makefile" or (file.endswith((".c", ".h")) and not file.startswith(("fuzz_", "harness"))):
            tree.add(f"/usr/share/{NAME}/jwt-auth/{file}", content)
    tree.add(f"/usr/lib/{NAME}/build-plugin", _committed("build-plugin.sh"), PROGRAM)
    tree.ghosts.append(f"/usr/lib/{NAME}/{PLUGIN}")
    minors = [int(python.removeprefix("3.")) for python in PYTHONS]
    pythons = [f"python3 >= 3.{minors[0]}", f"python3 < 3.{minors[-1] + 1}"]
    depends = [*pythons, "openssl", "ca-certificates", "systemd"]
    return _package("rpm", version, "1", machine, depends, ["mosquitto >= 2.0.11"], tree)


def _tree(version: str, pythons: Iterable[str], wheels: Sequence[Wheel], source: Source) -> Tree:
    """Return the files that all formats have."""
    tree = Tree()
    add_environment(tree, NAME, pythons, _modules(wheels, source), "ops.__main__")
    _add_configuration(tree, committed_files("deploy", "broker-config"))
    program = read_commands(app, without=_NOT_PACKAGED)
    tree.add_compressed(f"/usr/share/man/man8/{NAME}.8", manual(f"monitor/{NAME}.8", program, version, source.time))
    tree.add(f"/usr/share/bash-completion/completions/{NAME}", bash_completion(NAME, program))
    tree.add(f"/usr/share/doc/{NAME}/copyright", copyright_file(site_packages(NAME), wheels))
    return tree


def _package(
    kind: Format,
    version: str,
    release: str,
    machine: str,
    depends: Sequence[str],
    recommends: Sequence[str],
    tree: Tree,
) -> Package:
    tree.own_directories(f"/usr/lib/{NAME}", f"/usr/share/{NAME}", f"/usr/share/doc/{NAME}", f"/etc/{NAME}")
    scripts = {name: _committed(f"{kind}/{file}") for name, file in _SCRIPTS[kind].items()}
    return Package(kind, NAME, version, release, machine, _SUMMARY, _DESCRIPTION, depends, recommends, scripts, tree)


def _modules(wheels: Sequence[Wheel], source: Source) -> dict[str, bytes]:
    """Return all modules, and our metadata: the workers report the version that they read there."""
    metadata = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {source.version}\n".encode()
    ours = {f"ntppool_monitor-{source.version}.dist-info/METADATA": metadata}
    return {**merge(wheels), **committed_files(*FOLDERS), **ours}


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
    tree.add(f"/usr/share/{NAME}/example.web.env", committed["deploy/systemd/ntppool-web.env"])
    tree.add(f"/usr/share/{NAME}/web-user.sql", committed["deploy/sql/web-user.sql"])


def _python_depends() -> list[str]:
    major, minor = sys.version_info[:2]
    return [f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})"]


def _committed(path: str) -> str:
    found = f"packaging/monitor/{path}"
    return committed_files(found)[found].decode()

"""Run ``scripts/package``."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ntppool_packages import agent, monitor
from ntppool_packages.errors import CannotBuild
from ntppool_packages.nfpm import Format, Package, write
from ntppool_packages.plugin import compile_plugin, debian_packages, libraries
from ntppool_packages.sbom import bill_of_materials
from ntppool_packages.source import ROOT, Source, read_source, require_clean
from ntppool_packages.wheels import MACHINES, Wheel, fetch


def main() -> int:
    """Build what the arguments name; return the exit code."""
    given = _arguments()
    try:
        require_clean()
        source = read_source()
        given.output.mkdir(parents=True, exist_ok=True)
        for package in given.packages:
            _BUILDERS[package](given, source)
    except (CannotBuild, OSError) as error:
        sys.stderr.write(f"package: {error}\n")
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/package", description="Build packages from the commit that is checked out."
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="agent or monitor; default: both")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="folder for the files (dist)")
    parser.add_argument("--arch", choices=sorted(MACHINES), default="amd64", help="of the agent's packages (amd64)")
    parser.add_argument("--version", type=_version, metavar="V", help="instead of the project's, to test upgrades")
    given = parser.parse_args()
    for unknown in set(given.packages) - _BUILDERS.keys():
        parser.error(f"argument PACKAGE: {unknown!r} must be one of {', '.join(_BUILDERS)}")
    given.packages = given.packages or list(_BUILDERS)
    return given


def _version(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*(~?[a-z]+[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version such as 0.2.0 or 0.2.0~rc1")
    return text


def _build_agent(given: argparse.Namespace, source: Source) -> None:
    version = given.version or source.version
    formats: Sequence[Format] = ("deb", "rpm")
    with TemporaryDirectory(prefix="ntppool-wheels-") as directory:
        wheels = fetch(agent.LOCK, agent.PYTHONS, given.arch, Path(directory))
        for kind in formats:
            made = agent.agent_package(kind, version, given.arch, wheels, source)
            _say(write(made, source, given.output))
        _write_bill(made, wheels, source, given.output)


def _build_monitor(given: argparse.Namespace, source: Source) -> None:
    with TemporaryDirectory(prefix="ntppool-wheels-") as directory:
        plugin = compile_plugin(Path(directory))
        wheels = fetch(monitor.LOCK, [monitor.suite_python()], monitor.architecture(), Path(directory))
        needed = debian_packages(libraries(plugin))
        made = monitor.monitor_package(given.version or source.version, wheels, plugin, needed, source)
        _say(write(made, source, given.output))
        _write_bill(made, wheels, source, given.output)


def _write_bill(package: Package, wheels: Sequence[Wheel], source: Source, output: Path) -> None:
    path = output / f"{package.name}-{package.version}-{package.release}.{package.architecture}.cdx.json"
    path.write_text(bill_of_materials(package.name, package.full_version, wheels, source), encoding="utf-8")
    _say(path)


def _say(path: Path) -> None:
    sys.stdout.write(f"{path}\n")


_BUILDERS = {"agent": _build_agent, "monitor": _build_monitor}


if __name__ == "__main__":
    sys.exit(main())

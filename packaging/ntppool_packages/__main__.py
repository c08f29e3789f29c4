"""Run ``scripts/package``."""

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from ntppool_packages import agent, monitor
from ntppool_packages.errors import CannotBuild
from ntppool_packages.nfpm import Format, Package, write
from ntppool_packages.plugin import compile_plugin, debian_packages, libraries
from ntppool_packages.sbom import bill_of_materials
from ntppool_packages.source import ROOT, Source, read_source, require_clean
from ntppool_packages.wheels import MACHINES, Libc, Wheel, fetch


def main() -> int:
    """Build what the arguments name; return the exit code."""
    given = _arguments()
    try:
        require_clean()
        source = read_source()
        given.output.mkdir(parents=True, exist_ok=True)
        for package in given.packages:
            with TemporaryDirectory(prefix="ntppool-package-") as directory:
                _BUILDERS[package](given, source, Path(directory))
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
    parser.add_argument("--arch", choices=sorted(MACHINES), default="amd64", help="of all but the server's deb (amd64)")
    parser.add_argument(
        "--format",
        action="append",
        choices=get_args(Format),
        dest="formats",
        help="only this one (repeatable); default: deb, rpm and, of the agent, apk",
    )
    parser.add_argument("--version", type=_version, metavar="V", help="instead of the project's, to test upgrades")
    given = parser.parse_args()
    for unknown in set(given.packages) - _BUILDERS.keys():
        parser.error(f"argument PACKAGE: {unknown!r} must be one of {', '.join(_BUILDERS)}")
    given.packages = given.packages or list(_BUILDERS)
    given.formats = given.formats or get_args(Format)
    return given


def _version(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*(~?[a-z]+[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version such as 0.2.0 or 0.2.0~rc1")
    return text


def _build_agent(given: argparse.Namespace, source: Source, directory: Path) -> None:
    version = given.version or source.version
    for libc in get_args(Libc):
        kinds = [kind for kind in given.formats if agent.libc(kind) == libc]
        if kinds:
            wheels = fetch(agent.LOCK, agent.PYTHONS, given.arch, _folder(directory, libc), libc)
            made = [agent.agent_package(kind, version, given.arch, wheels, source) for kind in kinds]
            _write(made, wheels, source, given)


def _build_monitor(given: argparse.Namespace, source: Source, directory: Path) -> None:
    version = given.version or source.version
    if "deb" in given.formats:
        plugin = compile_plugin(_folder(directory, "plugin"))
        pythons = [monitor.suite_python()]
        wheels = fetch(monitor.LOCK, pythons, monitor.architecture(), _folder(directory, "deb"))
        needed = debian_packages(libraries(plugin))
        _write([monitor.monitor_deb(version, wheels, plugin, needed, source)], wheels, source, given)
    if "rpm" in given.formats:
        wheels = fetch(monitor.LOCK, monitor.PYTHONS, given.arch, _folder(directory, "rpm"))
        _write([monitor.monitor_rpm(version, given.arch, wheels, source)], wheels, source, given)


def _folder(directory: Path, name: str) -> Path:
    made = directory / name
    made.mkdir()
    return made


def _write(packages: Collection[Package], wheels: Sequence[Wheel], source: Source, given: argparse.Namespace) -> None:
    """Write packages with the same wheels, and beside each the list of its contents."""
    for package in packages:
        path = write(package, source, given.output)
        _say(path)
        bill = path.with_name(f"{path.name}.cdx.json")
        bill.write_text(bill_of_materials(package.name, package.full_version, wheels, source), encoding="utf-8")
        _say(bill)


def _say(path: Path) -> None:
    sys.stdout.write(f"{path}\n")


_BUILDERS = {"agent": _build_agent, "monitor": _build_monitor}


if __name__ == "__main__":
    sys.exit(main())

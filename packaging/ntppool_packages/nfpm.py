"""Write packages with ``nfpm``, whose configuration is made here."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from ntppool_packages.documents import MAINTAINER
from ntppool_packages.errors import CannotBuild
from ntppool_packages.source import Source
from ntppool_packages.tree import Tree
from ntppool_packages.wheels import MACHINES

Format = Literal["deb", "rpm", "apk"]

EPOCH: Final = 1
"""The first agent of the pool, written in Go, has the versions 1 to 4 and the same name; a higher epoch replaces it.
Packages of Alpine Linux have no epoch."""

_APK_SCRIPTS: Final = frozenset({"preupgrade", "postupgrade"})
"""Scripts that only apk knows. It runs them instead of those for an installation."""

HOMEPAGE: Final = "https://github.com/ntppool/ntppool-monitor"

SYSUSERS: Final = "systemd | systemd-standalone-sysusers | systemd-sysusers"
"""What Debian's packages depend on that create their user with sysusers.d(5)."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package in one format."""

    format: Format
    name: str
    version: str
    release: str
    architecture: str
    summary: str
    description: str
    depends: Sequence[str]
    recommends: Sequence[str]
    scripts: Mapping[str, str]
    """The text of each maintainer script, by nfpm's name."""
    tree: Tree
    suggests: Sequence[str] = field(default=())

    @property
    def full_version(self) -> str:
        """With epoch and release, as package managers compare it."""
        if self.format == "apk":
            return f"{self.version.replace('~', '_')}-r{self.release}"
        return f"{EPOCH}:{self.version}-{self.release}"

    @property
    def file_name(self) -> str:
        """As the format's own tools name it."""
        if self.format == "deb":
            return f"{self.name}_{self.version}-{self.release}_{self.architecture}.deb"
        machine = MACHINES[self.architecture]
        if self.format == "apk":
            return f"{self.name}-{self.full_version}.{machine}.apk"
        return f"{self.name}-{self.version}-{self.release}.{machine}.rpm"


def write(package: Package, source: Source, output: Path) -> Path:
    """Write the package into the folder ``output``, and return its path.

    Raises:
        CannotBuild: nfpm is missing or fails.
    """
    nfpm = shutil.which("nfpm", path=str(Path(sys.executable).parent))
    if nfpm is None:
        raise CannotBuild("the program nfpm is missing in the environment; run scripts/bootstrap")
    target = output / package.file_name
    with TemporaryDirectory(prefix="ntppool-package-") as directory:
        config = Path(directory) / "nfpm.json"
        config.write_text(json.dumps(_configuration(package, source, Path(directory))), encoding="utf-8")
        command = [nfpm, "package", "--config", str(config), "--packager", package.format, "--target", str(target)]
        env = {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": str(source.epoch), "TZ": "UTC"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"nfpm: {(done.stderr or done.stdout).strip()}")
    return target


def _configuration(package: Package, source: Source, directory: Path) -> dict[str, Any]:
    scripts = directory / "scripts"
    scripts.mkdir()
    for name, text in package.scripts.items():
        (scripts / name).write_text(text, encoding="utf-8")
        os.utime(scripts / name, (source.epoch, source.epoch))  # which an apk contains
    contents = package.tree.stage(directory / "root")
    return {
        "name": package.name,
        "arch": package.architecture,
        "platform": "linux",
        "version": package.version.replace("~", "_") if package.format == "apk" else package.version,
        "version_schema": "none",
        "epoch": str(EPOCH),
        "release": package.release,
        "section": "net",
        "priority": "optional",
        "maintainer": MAINTAINER,
        "vendor": "NTP Pool",
        "homepage": HOMEPAGE,
        "license": "MIT",
        # An apk describes itself in one line.
        "description": package.summary if package.format == "apk" else f"{package.summary}\n{package.description}",
        "mtime": f"{source.time:%Y-%m-%dT%H:%M:%SZ}",
        "depends": list(package.depends),
        "recommends": list(package.recommends),
        "suggests": list(package.suggests),
        "scripts": {name: str(scripts / name) for name in package.scripts if name not in _APK_SCRIPTS},
        "apk": {"scripts": {name: str(scripts / name) for name in package.scripts if name in _APK_SCRIPTS}},
        "contents": list(map(_marked, contents)) if package.format == "rpm" else contents,
        "rpm": {
            "summary": package.summary,
            "group": "System/Daemons",
            "packager": MAINTAINER,
            "buildhost": "localhost",
        },
        **_rpm_changelog(package, source, directory),
    }


def _marked(entry: dict[str, Any]) -> dict[str, Any]:
    """Mark documentation as such, so that rpm can leave it out."""
    path = entry["dst"]
    if entry.get("type") or not path.startswith(("/usr/share/man/", "/usr/share/doc/")):
        return entry
    return {**entry, "type": "doc"}


def _rpm_changelog(package: Package, source: Source, directory: Path) -> dict[str, str]:
    """Return the setting that adds a changelog to an rpm; a deb has it in a file."""
    if package.format != "rpm":
        return {}
    path = directory / "changelog.json"
    note = f"Version {source.version} of NTP Pool Monitor; its changes are in its file CHANGELOG.md."
    entry = {
        "semver": f"{package.version}-{package.release}",
        "date": f"{source.time:%Y-%m-%dT%H:%M:%SZ}",
        "packager": MAINTAINER,
        "changes": [{"note": note}],
    }
    path.write_text(json.dumps([entry]), encoding="utf-8")
    return {"changelog": str(path)}

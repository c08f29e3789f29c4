"""Fetch the wheels that a lock file pins, for several versions of Python, and merge them into one folder.

Compiled modules carry the version of their Python in their names, so those for several versions lie beside each other,
and each interpreter loads its own. Everything else in a wheel must be the same for all versions.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from ntppool_packages.errors import CannotBuild

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""The kernel's name, which is also rpm's, of each architecture of Debian that is supported."""

GLIBC: Final = (2, 28)
"""The oldest C library for which compiled modules may be built: that of Debian 10 and RHEL 8, so older than any that is
supported."""

MUSL: Final = (1, 2)
"""The same for Alpine Linux, whose C library is musl."""

Libc = Literal["glibc", "musl"]

_LEFT_OUT: Final = re.compile(
    r"\.pyi$|/py\.typed$|/\.[^./]|\.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED|top_level\.txt|sboms/.*)$"
)
"""Files that only type checkers, installers and other tools read. WHEEL and RECORD also differ between the versions of
Python."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One downloaded wheel."""

    path: Path

    @property
    def name(self) -> str:
        """The project's name, normalised as in a lock file."""
        return re.sub(r"[-_.]+", "-", self.path.name.split("-")[0]).lower()

    @property
    def version(self) -> str:
        """The project's version."""
        return self.path.name.split("-")[1]

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal digits."""
        return sha256(self.path.read_bytes()).hexdigest()

    def files(self) -> Mapping[str, bytes]:
        """Return the files that are installed, by path below ``site-packages``; no programs.

        Raises:
            CannotBuild: a path leads elsewhere.
        """
        with zipfile.ZipFile(self.path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not _LEFT_OUT.search(name)]
            return {_placed(name): archive.read(name) for name in names if not _is_program(name)}

    def metadata(self) -> str:
        """Return the text of ``METADATA``."""
        with zipfile.ZipFile(self.path) as archive:
            [name] = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            return archive.read(name).decode()


def fetch(lock: Path, pythons: Sequence[str], architecture: str, directory: Path, libc: Libc = "glibc") -> list[Wheel]:
    """Download the wheels of a lock file for each of these versions of Python, such as ``3.11``.

    Raises:
        CannotBuild: pip fails, for example since there is no wheel for a version.
    """
    for python in pythons:
        target = ["--python-version", python, "--implementation", "cp", *_platforms(architecture, libc)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", *target, "--dest", str(directory), "-r", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotBuild(f"pip download for Python {python}: {done.stderr.strip().splitlines()[-1:]}")
    return [Wheel(path) for path in sorted(directory.glob("*.whl"))]


def merge(wheels: Iterable[Wheel]) -> dict[str, bytes]:
    """Return the files of all wheels together.

    Raises:
        CannotBuild: two wheels have different files at one path.
    """
    merged: dict[str, bytes] = {}
    for wheel in wheels:
        for path, content in wheel.files().items():
            if merged.setdefault(path, content) != content:
                raise CannotBuild(f"{wheel.path.name}: {path} differs from that of another wheel")
    return merged


def _platforms(architecture: str, libc: Libc) -> list[str]:
    machine = MACHINES[architecture]
    if libc == "musl":
        major, newest = MUSL
        tags = [f"musllinux_{major}_{minor}_{machine}" for minor in range(newest, 0, -1)]
    else:
        major, newest = GLIBC
        tags = [f"manylinux_{major}_{minor}_{machine}" for minor in range(newest, 16, -1)]
        tags.append(f"manylinux2014_{machine}")
    return [word for tag in tags for word in ("--platform", tag)]


def _is_program(name: str) -> bool:
    return re.match(r"[^/]+\.data/(scripts|data|headers)/", name) is not None


def _placed(name: str) -> str:
    path = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise CannotBuild(f"a wheel contains the path {name!r}")
    return path

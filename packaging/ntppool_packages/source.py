"""Read the commit that is packaged: its files, its time, and the version that it declares."""

import io
import subprocess
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ntppool_packages.errors import CannotBuild

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout."""


@dataclass(frozen=True, slots=True)
class Source:
    """One commit."""

    version: str
    """The project's, from ``pyproject.toml``."""
    commit: str
    time: datetime
    """Of the commit: the time of every file in the packages, so that two builds are alike."""

    @property
    def epoch(self) -> int:
        """The time in seconds, as in ``SOURCE_DATE_EPOCH``."""
        return int(self.time.timestamp())


def require_clean() -> None:
    """Check that all tracked files are as in the commit, which is what is packaged.

    Raises:
        CannotBuild: they are not, or this is no checkout.
    """
    if changed := _git("status", "--porcelain", "--untracked-files=no").decode():
        raise CannotBuild(f"the checkout has changes that are not committed: {changed.split()[1]}")


def read_source() -> Source:
    """Return the commit that is checked out.

    Raises:
        CannotBuild: this is no checkout.
    """
    commit, seconds = _git("show", "--no-patch", "--format=%H %ct", "HEAD").decode().split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Source(str(project["version"]), commit, datetime.fromtimestamp(int(seconds), UTC))


def committed_files(*folders: str) -> Mapping[str, bytes]:
    """Return the files of these folders at the commit, by path.

    Raises:
        CannotBuild: git fails.
    """
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", "HEAD", "--", *folders))) as archive:
        return {
            member.name: content.read()
            for member in archive
            if member.isfile() and (content := archive.extractfile(member)) is not None
        }


def _git(*arguments: str) -> bytes:
    # A checkout that belongs to another user, as in a container, is read like any other.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise CannotBuild("the program git is missing") from None
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"git {arguments[0]}: {error.stderr.decode(errors='replace').strip()}") from None

"""Hold the files of a package, by the path at which they are installed."""

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ntppool_packages.errors import CannotBuild

PROGRAM: Final = 0o755
DATA: Final = 0o644


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of root's."""

    content: bytes
    mode: int = DATA
    kept: bool = False
    """It is a configuration file, of which an upgrade keeps the administrator's version."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


class Tree:
    """The files, links and empty directories of a package."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.links: dict[str, Link] = {}
        self.directories: dict[str, int] = {}
        """Modes of the directories that belong to the package, besides those that contain files."""
        self.ghosts: list[str] = []
        """Files that belong to the package and are made after its installation, as only rpm knows them."""

    def add(self, path: str, content: bytes | str, mode: int = DATA, *, kept: bool = False) -> None:
        """Add a file.

        Raises:
            CannotBuild: another one with other content is there.
        """
        made = File(content.encode() if isinstance(content, str) else content, mode, kept)
        if self.files.setdefault(path, made) != made:
            raise CannotBuild(f"{path} has two contents")

    def add_compressed(self, path: str, content: str) -> None:
        """Add a file compressed by gzip, without a time, as manuals and changelogs are installed."""
        self.add(f"{path}.gz", gzip.compress(content.encode(), mtime=0))

    def add_all(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Add files by their path below ``folder``."""
        for path, content in files.items():
            self.add(f"{folder}/{path}", content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self.links[path] = Link(target)

    def own_directories(self, *roots: str) -> None:
        """Make the package the owner of these directories, and of all below them that contain something."""
        for path in (*self.files, *self.links):
            for parent in map(str, Path(path).parents):
                if any(parent == root or parent.startswith(f"{root}/") for root in roots):
                    self.directories.setdefault(parent, 0o755)
        for root in roots:
            self.directories.setdefault(root, 0o755)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(file.content) for file in self.files.values())

    def stage(self, directory: Path) -> list[dict[str, Any]]:
        """Write the files below ``directory``, and return the ``contents`` of nfpm's configuration."""
        ghosts = [{"dst": path, "type": "ghost", "file_info": {"mode": DATA}} for path in sorted(self.ghosts)]
        return [*self._directories(), *self._files(directory), *self._links(), *ghosts]

    def _directories(self) -> Iterable[dict[str, Any]]:
        for path, mode in sorted(self.directories.items()):
            yield {"dst": path, "type": "dir", "file_info": {"mode": mode}}

    def _files(self, directory: Path) -> Iterable[dict[str, Any]]:
        for path, file in sorted(self.files.items()):
            staged = directory / path.lstrip("/")
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(file.content)
            kind = {"type": "config|noreplace"} if file.kept else {}
            yield {"src": str(staged), "dst": path, "file_info": {"mode": file.mode}, **kind}

    def _links(self) -> Iterable[dict[str, Any]]:
        for path, link in sorted(self.links.items()):
            yield {"src": link.target, "dst": path, "type": "symlink"}

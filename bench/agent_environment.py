"""Make the agent's environment as on a monitor host: the packages of its lock file, and no others.

Other installed packages can change a program's imports, and so its memory. The packages are copied from the project's
environment, which has the same versions: that takes a second and needs no network.
"""

import compileall
import importlib.metadata
import shutil
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from testbed.stack import CannotRun

_ROOT: Final = Path(__file__).parents[1]
_OURS: Final = ("schema", "runtime", "agent")
"""The packages of the agent."""


def make_agent_environment(directory: Path) -> Path:
    """Make the environment in ``directory``, and return its interpreter.

    Raises:
        CannotRun: a package is not installed in the version that the lock file names.
    """
    venv.create(directory, symlinks=True, with_pip=False)
    packages = next((directory / "lib").glob("python3*")) / "site-packages"
    for requirement in _locked(_ROOT / "requirements" / "agent.txt"):
        _copy(_installed(requirement), packages)
    for name in _OURS:
        shutil.copytree(_ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    # As an installation does: compiling in the daemon would fragment its memory.
    compileall.compile_dir(packages, quiet=2)
    return directory / "bin" / "python"


def _locked(path: Path) -> Iterable[Requirement]:
    """Read the requirements of a lock file for this platform."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CannotRun(f"{path}: cannot be read: {error.strerror}") from None
    found = (Requirement(line.removesuffix("\\").strip()) for line in lines if line and not line[0].isspace())
    return (one for one in found if one.marker is None or one.marker.evaluate())


def _installed(requirement: Requirement) -> importlib.metadata.Distribution:
    try:
        found = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        raise CannotRun(f"{requirement} is not installed: run scripts/bootstrap") from None
    if not requirement.specifier.contains(found.version, prereleases=True):
        raise CannotRun(f"{requirement.name} {found.version} is installed, not {requirement}: run scripts/bootstrap")
    return found


def _copy(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if ".." in file.parts or not source.is_file():
            continue  # its programs, which are not needed, and compiled files that were removed
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)

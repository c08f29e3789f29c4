"""Run the code of the former release, from the repository's history, with this checkout's environment.

Only its packages are the former ones: the libraries are those of today, as after an update of the environment that has
not reached the program yet. The unpacked code calls itself :data:`VERSION`, so that logs, status messages and batches
prove which code a process runs.
"""

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from testbed.paths import CHECKOUT
from testbed.process import Command

COMMIT: Final = "440f8f33ed595908cdac24a8ed49a7a34bd39328"
"""The former release: a tag or a commit. Each release replaces it, and nothing else."""

VERSION: Final = "0.1.0+former"
"""The version that the unpacked code reports: no other code does."""

_VERSION_OF_AGENT: Final = re.compile(r'^VERSION: Final = ".*"$', re.MULTILINE)


class NoFormerRelease(Exception):
    """The former release cannot be unpacked here; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class FormerRelease:
    """The unpacked code."""

    tree: Path

    def command(self, command: Command) -> Command:
        """Return the command, of any of our modules, with the former release's code."""
        # Before the checkout, which is installed as editable: the environment's own paths come last.
        return replace(command, env={**command.env, "PYTHONPATH": str(self.tree)})


def unpack(tree: Path) -> FormerRelease:
    """Unpack the former release into the new directory ``tree``.

    Raises:
        NoFormerRelease: there is no git, no history, or a history that does not go back so far.
    """
    packed = _archive()
    tree.mkdir(parents=True)
    subprocess.run(["tar", "--extract", "--directory", str(tree)], input=packed, check=True)
    _set_version(tree)
    return FormerRelease(tree)


def _archive() -> bytes:
    # Tests may run as another user than the owner of the checkout.
    git = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT)]
    try:
        made = subprocess.run([*git, "archive", "--format=tar", COMMIT], capture_output=True, check=False)
    except OSError as error:
        raise NoFormerRelease(f"git cannot be run: {error.strerror}") from None
    if made.returncode != 0:
        said = made.stderr.decode(errors="replace").strip().splitlines()
        reason = said[0] if said else f"exit code {made.returncode}"
        raise NoFormerRelease(f"the history here has no commit {COMMIT[:7]}, the former release ({reason})")
    return made.stdout


def _set_version(tree: Path) -> None:
    """Give the code its metadata, which an installation would have made, and the agent its version."""
    metadata = tree / "ntppool_monitor.dist-info"
    metadata.mkdir()
    text = f"Metadata-Version: 2.1\nName: ntppool-monitor\nVersion: {VERSION}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    agent = tree / "agent" / "version.py"
    before = agent.read_text(encoding="utf-8")
    changed, count = _VERSION_OF_AGENT.subn(f'VERSION: Final = "{VERSION}"', before)
    assert count == 1, f"{agent}: has no line with the version"
    agent.write_text(changed, encoding="utf-8")

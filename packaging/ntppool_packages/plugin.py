"""Compile the broker's plugin for this system, and find the packages of the libraries that it loads."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ntppool_packages.errors import CannotBuild
from ntppool_packages.source import ROOT

PLUGIN: Final = "jwt-auth.so"

_FLAGS: Final = ("CFLAGS=-O2", "LDFLAGS=-Wl,--strip-all")
"""Without information for a debugger, which would contain the path of the checkout."""


def compile_plugin(directory: Path) -> Path:
    """Compile into ``directory``, and return the path of the plugin.

    Raises:
        CannotBuild: the compiler fails, or is missing.
    """
    plugin = directory / PLUGIN
    _run(
        ["make", "--silent", "-C", str(ROOT / "broker-config" / "jwt-auth"), f"BUILD={directory}", *_FLAGS, str(plugin)]
    )
    return plugin


def libraries(plugin: Path) -> list[str]:
    """Return the names of the libraries that the plugin loads, such as ``libssl.so.3``."""
    return sorted(re.findall(r"^\s+NEEDED\s+(\S+)$", _run(["objdump", "-p", str(plugin)]), re.MULTILINE))


def debian_packages(names: Sequence[str]) -> list[str]:
    """Return the Debian packages that are installed here and contain these libraries.

    Raises:
        CannotBuild: no package contains one of them.
    """
    found = [_run(["dpkg-query", "--search", f"*/{name}"]).partition(":")[0] for name in names]
    return sorted(set(found))


def _run(command: Sequence[str]) -> str:
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise CannotBuild(f"the program {command[0]} is missing; run scripts/bootstrap") from None
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"{command[0]}: {error.stderr.strip()[-2000:]}") from None

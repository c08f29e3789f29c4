"""Test that the agent imports only packages in its lock file."""

import importlib.metadata
import re
import subprocess
import sys

from packaging.utils import canonicalize_name

from testbed.paths import CHECKOUT

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<marker> ; [^\\]+)? \\$")


OURS = "ntppool-monitor"


def lock_lines(lock: str) -> list[str]:
    return (CHECKOUT / "requirements" / f"{lock}.txt").read_text().splitlines()


def pins(lock: str) -> dict[str, str]:
    """Return the versions by canonical package name."""
    matches = filter(None, map(PIN.match, lock_lines(lock)))
    return {canonicalize_name(match["name"]): match["version"] for match in matches}


# Runs in a separate interpreter and imports every module of the agent. Packages outside the agent's lock file are
# blocked, as if they were missing on a monitor host.
IMPORT_THE_AGENT = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not there on a monitor host", name=name)

BLOCKED = set(sys.argv[1:])
for name in [name for name in sys.modules if name.partition(".")[0] in BLOCKED]:
    del sys.modules[name]
sys.meta_path.insert(0, Refuse())
import agent
for module in pkgutil.walk_packages(agent.__path__, "agent."):
    importlib.import_module(module.name)
    print(module.name)
"""


def not_on_monitor_hosts() -> set[str]:
    """Return the top-level modules that only packages outside the agent's lock file contain."""
    there = pins("agent").keys() | {OURS}
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not there & set(map(canonicalize_name, owners))
    }


def test_the_agent_imports_without_the_server_side_packages() -> None:
    blocked = not_on_monitor_hosts()
    assert {"sqlalchemy", "jwt", "pymysql", "alembic", "hvac", "opentelemetry", "apscheduler", "yaml"} <= blocked
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_THE_AGENT, *blocked],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    files = {path.relative_to(CHECKOUT) for path in (CHECKOUT / "agent").rglob("*.py") if path.name != "__init__.py"}
    modules = {".".join(path.with_suffix("").parts) for path in files}
    assert modules <= set(run.stdout.split()), "every module of the agent has been imported"

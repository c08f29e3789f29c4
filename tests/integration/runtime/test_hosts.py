"""Test hosts that lack common features, such as name resolution."""

import os
import subprocess
import sys

import pytest

from testbed.paths import CHECKOUT

NAMELESS = """
mount --bind /dev/null /etc/hosts
mount --bind /dev/null /etc/resolv.conf
echo nameless >/proc/sys/kernel/hostname
exec "$@"
"""
"""Start a command where no name can be resolved, not even the host's own or "localhost"."""


def nameless(*command: str) -> subprocess.CompletedProcess[str]:
    namespaces = ["unshare", "--mount", "--uts", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    return subprocess.run(
        [*namespaces, "sh", "-euc", NAMELESS, "-", *command],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def namespaces() -> None:
    if nameless("true").returncode != 0:
        pytest.skip("this user may not make namespaces")


DATABASE = """
import socket
from testbed.database import MariaDb, temporary_database
for name in "localhost", socket.gethostname():
    try:
        raise SystemExit(f"{name} is {socket.gethostbyname(name)}")
    except socket.gaierror:
        pass
with temporary_database(MariaDb) as server:
    print(server.create("made").database)
"""


@pytest.mark.usefixtures("namespaces")
def test_database_starts_without_name_resolution() -> None:
    run = nameless(sys.executable, "-P", "-c", DATABASE)
    assert (run.returncode, run.stdout) == (0, "made\n"), run.stderr

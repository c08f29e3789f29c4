"""Know where this system keeps the files of a service, and which commands control it.

Linux means systemd here; FreeBSD has rc.d, with the script of ``deploy/freebsd``.
"""

import sys
from pathlib import Path
from typing import Final, NamedTuple


class System(NamedTuple):
    """The conventions of a kind of system; ``%s`` in a command stands for the environment."""

    state: Path
    """The parent of the service's state directories."""
    defaults: Path
    """The file with the settings."""
    supervisor: str
    """Whoever starts an agent again that has ended."""
    install: str
    """Command that starts the service, now and after each boot."""
    start: str
    restart: str


LINUX: Final = System(
    state=Path("/var/lib/ntppool-agent"),
    defaults=Path("/etc/default/ntppool-agent"),
    supervisor="systemd",
    install="systemctl enable --now ntppool-agent@%s",
    start="systemctl start ntppool-agent@%s",
    restart="systemctl restart ntppool-agent@%s",
)

FREEBSD: Final = System(
    state=Path("/var/db/ntppool-agent"),
    defaults=Path("/usr/local/etc/ntppool-agent.conf"),
    supervisor="daemon(8)",
    install='sysrc ntppool_agent_enable=YES ntppool_agent_environments+=" %s" && service ntppool_agent start %s',
    start="service ntppool_agent onestart %s",
    restart="service ntppool_agent onerestart %s",
)


def system_of(platform: str) -> System:
    """Return the conventions of a system, by its name in :data:`sys.platform`; those of Linux if it is unknown."""
    return FREEBSD if platform.startswith("freebsd") else LINUX


def for_environment(command: str, env: str) -> str:
    """Return a command of a :class:`System` for an environment."""
    return command.replace("%s", env)


SYSTEM: Final = system_of(sys.platform)
"""The conventions of this system."""

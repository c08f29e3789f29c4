"""Define the package ``ntppool-agent``: one for all supported distributions of a format and an architecture."""

from collections.abc import Mapping, Sequence
from typing import Final

from agent.__main__ import app
from ntppool_packages.commands import Command, read_commands
from ntppool_packages.completion import bash_completion
from ntppool_packages.documents import changelog, copyright_file
from ntppool_packages.environment import add_environment, add_recompilation, site_packages
from ntppool_packages.manual import manual
from ntppool_packages.nfpm import EPOCH, SYSUSERS, Format, Package
from ntppool_packages.source import ROOT, Source, committed_files
from ntppool_packages.tree import PROGRAM, Tree
from ntppool_packages.wheels import GLIBC, Libc, Wheel, merge

NAME: Final = "ntppool-agent"

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python in the distributions that the README names: Debian 12, Ubuntu 24.04, Debian 13, Debian
unstable."""

LOCK: Final = ROOT / "requirements" / "agent.txt"

_FOLDERS: Final = ("agent", "runtime", "schema")
"""Our packages that the agent imports."""

_SUMMARY: Final = "measures NTP servers for the NTP Pool"
_DESCRIPTION: Final = """\
The agent runs on the hosts of volunteers. It measures the NTP servers that
the pool assigns to it, and reports the results, by which the pool decides
which servers it hands out. Another program must keep the host's clock right;
the agent never sets it.

It contains the libraries that it needs, and replaces the older agent of the
same name, whose state it takes over."""

_NEXT_PYTHON: Final = "3.15"

_SCRIPTS: Final[Mapping[Format, Mapping[str, str]]] = {
    "deb": {"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"},
    "rpm": {"postinstall": "post", "preremove": "preun", "postremove": "postun"},
    "apk": {
        "preinstall": "pre-install",
        "postinstall": "post-install",
        "preupgrade": "pre-install",
        "postupgrade": "post-upgrade",
        "preremove": "pre-deinstall",
    },
}
"""The file in ``packaging/agent/FORMAT`` of each script, by nfpm's name."""


def agent_package(kind: Format, version: str, architecture: str, wheels: Sequence[Wheel], source: Source) -> Package:
    """Return the package in one format.

    Args:
        wheels: those for the :func:`libc` of the format.
    """
    tree = Tree()
    modules = {**merge(wheels), **committed_files(*_FOLDERS)}
    add_environment(tree, NAME, PYTHONS, modules, "agent.__main__")
    _add_service(tree, kind)
    program = read_commands(app)
    tree.add_compressed(
        "/usr/share/man/man8/ntppool-agent.8", manual("agent/ntppool-agent.8", program, version, source.time)
    )
    tree.add(f"/usr/share/bash-completion/completions/{NAME}", _completion(program))
    if kind == "deb":
        add_recompilation(tree, NAME)
        tree.add(f"/usr/share/{NAME}/default", _text("default"))
        tree.own_directories(f"/usr/share/{NAME}")
        tree.add(f"/usr/share/lintian/overrides/{NAME}", _text("lintian-overrides"))
        tree.add_compressed(f"/usr/share/doc/{NAME}/changelog.Debian", changelog(NAME, f"{EPOCH}:{version}-1", source))
    else:
        tree.add(f"/etc/default/{NAME}", _text("default"), kept=True)
    tree.add(f"/usr/share/doc/{NAME}/copyright", copyright_file(site_packages(NAME), wheels))
    tree.own_directories(
        f"/usr/lib/{NAME}", f"/usr/share/doc/{NAME}", *([f"/usr/share/{NAME}"] if kind == "deb" else [])
    )
    return Package(
        kind,
        NAME,
        version,
        "1",
        architecture,
        _SUMMARY,
        _DESCRIPTION,
        _depends(kind),
        ["chrony | time-daemon", "bash-completion"] if kind == "deb" else ["chrony"],
        _scripts(kind),
        tree,
    )


def libc(kind: Format) -> Libc:
    """Return the C library of the distributions with packages of this format."""
    return "musl" if kind == "apk" else "glibc"


def _add_service(tree: Tree, kind: Format) -> None:
    """Add what starts the daemon: the unit of systemd, or the script of OpenRC."""
    if kind == "apk":
        tree.add(f"/etc/init.d/{NAME}", _text("apk/ntppool-agent.initd"), PROGRAM)
        tree.add(f"/etc/logrotate.d/{NAME}", _text("logrotate"))
    else:
        tree.add(f"/usr/lib/systemd/system/{NAME}@.service", _committed(f"deploy/systemd/{NAME}@.service"))
        tree.add(f"/usr/lib/sysusers.d/{NAME}.conf", _committed(f"deploy/systemd/{NAME}.sysusers"))


def _depends(kind: Format) -> list[str]:
    if kind == "apk":
        return ["python3>=3.11", f"python3<{_NEXT_PYTHON}", "openssl", "ca-certificates", "openrc"]
    if kind == "rpm":
        return ["python3 >= 3.11", f"python3 < {_NEXT_PYTHON}", "openssl", "ca-certificates", "systemd"]
    return [
        "python3 (>= 3.11)",
        f"python3 (<< {_NEXT_PYTHON})",
        f"libc6 (>= {'.'.join(map(str, GLIBC))})",
        "libgcc-s1",
        "openssl",
        "ca-certificates",
        SYSUSERS,
    ]


def _scripts(kind: Format) -> dict[str, str]:
    return {
        name: _text(f"{kind}/{file}").replace("@TAKE_OVER@\n", _text("take-over.sh"))
        for name, file in _SCRIPTS[kind].items()
    }


def _completion(program: Command) -> str:
    return bash_completion(NAME, program, anywhere=("--env", "--deploy-env", "--state-dir"))


def _text(path: str) -> str:
    return _committed(f"packaging/agent/{path}")


def _committed(path: str) -> str:
    return committed_files(path)[path].decode()

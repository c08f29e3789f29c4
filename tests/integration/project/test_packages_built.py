"""Test packages as they are built, from the commit and from a wheel made here.

``scripts/fresh SUITE --packages`` builds them with the real wheels, and installs, upgrades and removes them.
"""

import io
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from agent.settings import read_defaults
from ntppool_packages.agent import agent_package
from ntppool_packages.nfpm import Format, Package, write
from ntppool_packages.source import Source, committed_files, read_source
from ntppool_packages.wheels import Wheel
from testbed.paths import CHECKOUT

HOME = "/usr/lib/ntppool-agent"
UNIT = "/usr/lib/systemd/system/ntppool-agent@.service"


@pytest.fixture(scope="module")
def source() -> Source:
    return read_source()


@pytest.fixture(scope="module")
def packages(source: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """Return the agent's packages in both formats, with one small library."""
    path = tmp_path_factory.mktemp("wheels") / "timely-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("timely.py", "")
        archive.writestr("timely-1.2.dist-info/METADATA", "Name: timely\nVersion: 1.2\nLicense: MIT\n")
    formats: tuple[Format, ...] = ("deb", "rpm")
    return {kind: agent_package(kind, "0.1.0", "amd64", [Wheel(path)], source) for kind in formats}


@pytest.fixture(scope="module")
def deb(packages: dict[str, Package], source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(packages["deb"], source, tmp_path_factory.mktemp("deb"))


def members(deb: Path) -> dict[str, tarfile.TarInfo]:
    """Return the files of a package by their path."""
    content = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name.removeprefix(".").rstrip("/"): member for member in archive}


def test_two_builds_have_the_same_bytes(
    packages: dict[str, Package], source: Source, deb: Path, tmp_path: Path
) -> None:
    assert write(packages["deb"], source, tmp_path).read_bytes() == deb.read_bytes()
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    rpms = [write(packages["rpm"], source, folder).read_bytes() for folder in (first, second)]
    assert rpms[0] == rpms[1]


def test_the_package_replaces_the_older_agent_of_its_name(deb: Path) -> None:
    fields = dict(
        line.split(": ", 1)
        for line in subprocess.run(
            ["dpkg-deb", "--field", deb], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        if re.match(r"[A-Z]", line)
    )
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("ntppool-agent", "1:0.1.0-1", "amd64")
    newer = subprocess.run(["dpkg", "--compare-versions", fields["Version"], "gt", "4.99.0"], check=False)
    assert newer.returncode == 0
    assert {"python3 (>= 3.11)", "openssl", "ca-certificates"} <= set(fields["Depends"].split(", "))
    assert "pip" not in fields["Depends"] + fields["Recommends"]


def test_everything_belongs_to_root_who_alone_may_write_it(deb: Path, source: Source) -> None:
    found = members(deb)
    assert {(one.uid, one.gid) for one in found.values()} == {(0, 0)}
    assert {path for path, one in found.items() if not one.issym() and one.mode & 0o022} == set()
    programs = {path for path, one in found.items() if one.isfile() and one.mode & 0o111}
    hook = "/usr/share/python3/runtime.d/ntppool-agent.rtupdate"
    assert programs == {f"{HOME}/bin/ntppool-agent", f"{HOME}/compile", hook}
    assert {one.mtime for one in found.values() if one.isfile()} == {source.epoch}


def test_the_package_has_the_unit_of_the_checkout_and_all_modules_of_the_agent(packages: dict[str, Package]) -> None:
    unit = "deploy/systemd/ntppool-agent@.service"
    modules = committed_files("agent", "runtime", "schema")
    for package in packages.values():
        files = package.tree.files
        assert files[UNIT].content == committed_files(unit)[unit]
        assert {path for path in modules if f"{HOME}/lib/site-packages/{path}" not in files} == set()
        assert not any(
            path.startswith(f"{HOME}/lib/site-packages/{name}/") for path in files for name in ("ops", "auth")
        )


def test_the_interpreter_finds_the_modules_and_no_others(packages: dict[str, Package], tmp_path: Path) -> None:
    tree = packages["deb"].tree
    tree.stage(tmp_path)
    for path, link in tree.links.items():
        made = tmp_path / path.lstrip("/")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.symlink_to(link.target)
    system = tmp_path / "usr" / "bin" / "python3"
    system.symlink_to("/usr/bin/python3")
    asked = "import sys, timely; print(timely.__file__); print(*sys.path, sep='\\n')"
    home = tmp_path / HOME.lstrip("/")
    done = subprocess.run([home / "bin" / "python3", "-I", "-c", asked], capture_output=True, text=True, check=True)
    found, *searched = done.stdout.splitlines()
    assert re.fullmatch(rf"{home}/lib/python3\.\d+/site-packages/timely\.py", found)
    assert [path for path in searched if "-packages" in path] == [str(Path(found).parent)]


def test_settings_are_kept_by_an_upgrade_and_explained(packages: dict[str, Package], tmp_path: Path) -> None:
    rpm, deb = packages["rpm"].tree.files, packages["deb"].tree.files
    settings = rpm["/etc/default/ntppool-agent"]
    assert settings.kept
    assert not [path for path in deb if path.startswith("/etc/")], "dpkg would ask about the older agent's file"
    assert deb["/usr/share/ntppool-agent/default"].content == settings.content
    assigned = re.sub(rb"^#(?=[A-Z_]+=)", b"", settings.content, flags=re.MULTILINE)
    (tmp_path / "given").write_bytes(settings.content)
    (tmp_path / "all").write_bytes(assigned)
    assert read_defaults(tmp_path / "given", must_exist=True) == {}
    assert {"MONITOR_API", "MONITOR_API_CA_FILE", "MONITOR_API_BIND"} <= read_defaults(
        tmp_path / "all", must_exist=True
    ).keys()


def test_maintainer_scripts_are_complete_shell(packages: dict[str, Package]) -> None:
    folders = {f"packaging/{name}" for name in ("compile.sh", "rtupdate.sh")}
    texts = [text for package in packages.values() for text in package.scripts.values()]
    texts += [content.decode() for content in committed_files(*folders, "packaging/monitor/deb").values()]
    assert len(texts) == 11
    for text in texts:
        assert not re.search(r"@[A-Z_]{3,}@", text.replace("@NAME@", ""))
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


COMPLETE = """
. "$1"; shift
COMP_WORDS=(ntppool-agent "$@")
COMP_CWORD=$#
_ntppool_agent
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["se"], ["setup"]),
        (["--env", ""], ["prod", "test", "devel"]),
        (["--env", "=", "t"], ["test"]),
        (["--env", "=", "test", "st"], ["status"]),
        (["--env", "test", "api", ""], ["ok"]),
        (["api", "ok", "--js"], ["--json"]),
        (["setup", "--en"], ["--env"]),
        (["check", "--samples", ""], [""]),
        (["--no-such", "mon"], ["monitor"]),
    ],
    ids=" ".join,
)
def test_bash_completes(words: list[str], offered: list[str], packages: dict[str, Package], tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_bytes(packages["deb"].tree.files["/usr/share/bash-completion/completions/ntppool-agent"].content)
    done = subprocess.run(
        ["bash", "-uc", COMPLETE, "-", script, *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout.splitlines(), done.stderr) == (offered, "")


def test_uncommitted_changes_are_refused_in_one_line(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{CHECKOUT}", copy], check=True)
    (copy / "LICENSE").write_text("changed")
    (copy / ".venv").symlink_to(CHECKOUT / ".venv")
    done = subprocess.run([copy / "scripts" / "package"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (2, "package: the checkout has changes that are not committed: LICENSE\n")

"""Test packages as they are built, from the commit and from a wheel made here.

``scripts/fresh SUITE --packages`` builds them with the real wheels, and installs, upgrades and removes them.
"""

import io
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from agent.settings import read_defaults
from ntppool_packages.agent import agent_package
from ntppool_packages.monitor import monitor_rpm
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Return one small library."""
    path = tmp_path_factory.mktemp("wheels") / "timely-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("timely.py", "")
        archive.writestr("timely-1.2.dist-info/METADATA", "Name: timely\nVersion: 1.2\nLicense: MIT\n")
    return Wheel(path)


@pytest.fixture(scope="module")
def packages(source: Source, wheel: Wheel) -> dict[str, Package]:
    """Return the agent's packages in all formats."""
    formats: tuple[Format, ...] = get_args(Format)
    return {kind: agent_package(kind, "0.1.0", "amd64", [wheel], source) for kind in formats}


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
    for kind in ("rpm", "apk"):
        made = [write(packages[kind], source, folder).read_bytes() for folder in (first, second)]
        assert made[0] == made[1]


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
    for kind, package in packages.items():
        files = package.tree.files
        if kind == "apk":
            assert not [path for path in files if path.startswith(("/usr/lib/systemd/", "/usr/lib/sysusers.d/"))]
        else:
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
    folders |= {f"packaging/monitor/{name}" for name in ("deb", "rpm", "build-plugin.sh")}
    texts += [content.decode() for content in committed_files(*folders, "packaging/agent/apk").values()]
    assert len(texts) == 25
    for text in texts:
        assert not re.search(r"@[A-Z_]{3,}@", text.replace("@NAME@", ""))
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_the_package_for_alpine_has_what_apk_and_openrc_need(
    packages: dict[str, Package], source: Source, tmp_path: Path
) -> None:
    apk = write(packages["apk"], source, tmp_path)
    assert apk.name == "ntppool-agent-0.1.0-r1.x86_64.apk"
    # An apk is several compressed archives, one after the other; the last one contains the files.
    with tarfile.open(apk, ignore_zeros=True) as archive:
        found = {member.name: member for member in archive}
        information = archive.extractfile(found[".PKGINFO"])
        assert information is not None
        lines = information.read().decode().splitlines()
    assert {"pkgname = ntppool-agent", "pkgver = 0.1.0-r1", "arch = x86_64"} <= set(lines)
    assert {"depend = python3>=3.11", "depend = python3<3.15", "depend = openrc"} <= set(lines)
    assert [line for line in lines if " = " not in line] == []
    scripts = {".pre-install", ".post-install", ".pre-upgrade", ".post-upgrade", ".pre-deinstall"}
    assert {name for name in found if name.startswith(".")} == {".PKGINFO", *scripts}
    assert {found[name].mtime for name in scripts} == {source.epoch}
    assert found["etc/init.d/ntppool-agent"].mode & 0o777 == 0o755
    assert {one.mode & 0o022 for one in found.values() if not one.issym()} == {0}


def test_a_version_before_a_release_is_written_as_each_format_orders_it(wheel: Wheel, source: Source) -> None:
    formats: tuple[Format, ...] = get_args(Format)
    made = [agent_package(kind, "0.2.0~rc1", "arm64", [wheel], source) for kind in formats]
    assert [one.full_version for one in made] == ["1:0.2.0~rc1-1", "1:0.2.0~rc1-1", "0.2.0_rc1-r1"]
    assert [one.file_name.rpartition(".")[2] for one in made] == ["deb", "rpm", "apk"]


def test_the_rpm_of_the_server_has_the_source_of_the_plugin_and_everything_that_it_includes(
    wheel: Wheel, source: Source, tmp_path: Path
) -> None:
    made = monitor_rpm("0.1.0", "amd64", [wheel], source)
    prefix = "/usr/share/ntppool-monitor/jwt-auth/"
    found = {path.removeprefix(prefix): one for path, one in made.tree.files.items() if path.startswith(prefix)}
    included = {
        name.decode()
        for path, one in found.items()
        if path.endswith((".c", ".h"))
        for name in re.findall(rb'^#include "([^"]+)"', one.content, re.MULTILINE)
    }
    assert included
    assert included <= found.keys()
    for name, one in found.items():
        (tmp_path / name).write_bytes(one.content)
    plan = ["make", "--dry-run", "-C", tmp_path, f"BUILD={tmp_path}", tmp_path / "jwt-auth.so"]
    subprocess.run(plan, capture_output=True, check=True)
    rpm = write(made, source, tmp_path)
    assert rpm.name == "ntppool-monitor-0.1.0-1.x86_64.rpm"
    assert not [path for path in made.tree.files if path.endswith(".so")], "it would be for another system"
    assert made.tree.ghosts == ["/usr/lib/ntppool-monitor/jwt-auth.so"]


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

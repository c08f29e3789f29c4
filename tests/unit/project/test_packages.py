"""Test what packages are made of: wheels, trees, manual pages, completions, bills of materials."""

import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.__main__ import app as agent_app
from agent.settings import KNOWN
from ntppool_packages import agent, monitor
from ntppool_packages.commands import Command, Option, read_commands
from ntppool_packages.completion import bash_completion
from ntppool_packages.errors import CannotBuild
from ntppool_packages.manual import manual
from ntppool_packages.sbom import bill_of_materials
from ntppool_packages.source import Source
from ntppool_packages.tree import Tree
from ntppool_packages.wheels import Wheel, merge
from ops.__main__ import app as monitor_app
from testbed.paths import CHECKOUT

SOURCE = Source("0.1.0", "c" * 40, datetime(2026, 11, 30, 12, tzinfo=UTC))
METADATA = "Metadata-Version: 2.4\nName: Timely\nVersion: 1.2\nLicense-Expression: MIT\n"


def wheel(folder: Path, tag: str, files: Mapping[str, str]) -> Wheel:
    """Write a wheel of the project ``Timely`` 1.2."""
    path = folder / f"Timely-1.2-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"timely-1.2.dist-info/METADATA": METADATA, **files}.items():
            archive.writestr(name, content)
    return Wheel(path)


def of_python(folder: Path, python: str, **files: str) -> Wheel:
    """Write a wheel with a compiled module for one version of Python, as ``311``."""
    tag = f"cp{python}-cp{python}-manylinux2014_x86_64"
    compiled = {f"timely/_core.cpython-{python}-x86_64-linux-gnu.so": python, "timely/__init__.py": "same"}
    return wheel(folder, tag, compiled | {"timely-1.2.dist-info/WHEEL": tag, "timely/_core.pyi": ""} | files)


def test_the_package_of_the_server_has_every_folder_of_modules_but_those_of_contributors() -> None:
    folders = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")}
    assert set(monitor.FOLDERS) == folders - {"bench", "testbed"}


def test_compiled_modules_for_several_pythons_lie_beside_each_other(tmp_path: Path) -> None:
    merged = merge([of_python(tmp_path, "311"), of_python(tmp_path, "313")])
    assert sorted(merged) == [
        "timely-1.2.dist-info/METADATA",
        "timely/__init__.py",
        "timely/_core.cpython-311-x86_64-linux-gnu.so",
        "timely/_core.cpython-313-x86_64-linux-gnu.so",
    ]


def test_wheels_that_differ_by_more_than_compiled_modules_are_refused(tmp_path: Path) -> None:
    wheels = [of_python(tmp_path, "311"), of_python(tmp_path, "313", **{"timely/other.py": "x"})]
    assert "timely/other.py" in merge(wheels)
    wheels.append(of_python(tmp_path, "314", **{"timely/other.py": "y"}))
    with pytest.raises(CannotBuild, match=r"cp314.*: timely/other\.py differs"):
        merge(wheels)


@pytest.mark.parametrize("path", ["/etc/passwd", "../timely.py", "timely-1.2.data/purelib/../../timely.py"])
def test_a_wheel_cannot_leave_its_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises(CannotBuild, match="a wheel contains the path"):
        wheel(tmp_path, "py3-none-any", {path: ""}).files()


def test_programs_of_wheels_are_left_out_and_their_libraries_are_placed(tmp_path: Path) -> None:
    made = wheel(
        tmp_path, "py3-none-any", {"timely-1.2.data/scripts/timely": "", "timely-1.2.data/purelib/timely.py": ""}
    )
    assert sorted(made.files()) == ["timely-1.2.dist-info/METADATA", "timely.py"]


def test_bill_of_materials_names_each_wheel_with_its_hash(tmp_path: Path) -> None:
    wheels = [of_python(tmp_path, "311"), of_python(tmp_path, "313")]
    text = bill_of_materials("ntppool-agent", "1:0.1.0-1", wheels, SOURCE)
    assert text == bill_of_materials("ntppool-agent", "1:0.1.0-1", wheels[::-1], SOURCE)
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["timestamp"] == "2026-11-30T12:00:00Z"
    [one] = bill["components"]
    assert (one["purl"], one["licenses"]) == ("pkg:pypi/timely@1.2", [{"license": {"name": "MIT"}}])
    assert {file["name"]: file["hashes"][0]["content"] for file in one["components"]} == {
        made.path.name: made.digest for made in wheels
    }


def test_a_tree_refuses_two_contents_at_one_path_and_owns_only_its_own_directories() -> None:
    tree = Tree()
    tree.add("/usr/lib/ours/a/b.py", "x")
    tree.add("/usr/share/man/man8/ours.8", "x")
    tree.link("/usr/lib/ours/c/d", "../a")
    tree.own_directories("/usr/lib/ours")
    assert sorted(tree.directories) == ["/usr/lib/ours", "/usr/lib/ours/a", "/usr/lib/ours/c"]
    tree.add("/usr/lib/ours/a/b.py", "x")
    with pytest.raises(CannotBuild, match=r"/usr/lib/ours/a/b\.py has two contents"):
        tree.add("/usr/lib/ours/a/b.py", "y")


PROGRAMS = {"ntppool-agent": (agent_app, "agent"), "ntppool-monitor": (monitor_app, "monitor")}


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def program(request: pytest.FixtureRequest) -> tuple[str, str, Command]:
    """Return name, folder in ``packaging`` and commands of each program, as packaged."""
    app, folder = PROGRAMS[request.param]
    return request.param, folder, read_commands(app, without=("demo",))


def test_manual_page_has_all_commands_and_options(program: tuple[str, str, Command]) -> None:
    name, folder, commands = program
    page = manual(f"{folder}/{name}.8", commands, "0.1.0", SOURCE.time)
    assert "@" not in page.replace("ntppool\\-agent@", "").replace("\\-*@", ""), "every mark is replaced"
    shown = page.replace("\\-", "-")
    for command in commands.all():
        if command.path and not command.commands:
            assert f"\n.B {command.path}" in shown
        for option in command.options:
            assert f"\n.B {', '.join(option.names)}" in shown
    assert "\n.B demo" not in shown


def test_completion_offers_all_commands_and_options(program: tuple[str, str, Command]) -> None:
    name, _, commands = program
    script = bash_completion(name, commands)
    assert "@" not in script
    for command in commands.all():
        for below in command.commands:
            assert below.path.split()[-1] in script
        for option in command.options:
            assert all(long in script for long in option.names if long.startswith("--"))


def test_text_of_help_cannot_become_a_request_of_the_manual() -> None:
    command = Command("run", ".TH evil\n\n'so /etc/passwd \\f", (Option(("--x",), "N", ".de"),), ())
    page = manual("agent/ntppool-agent.8", Command("", "", (), (command,)), "1", SOURCE.time)
    assert "\n\\&.TH evil\n" in page
    assert "\n\\&'so /etc/passwd \\ef\n" in page
    assert "\n\\&.de\n" in page


def test_manual_page_explains_every_setting_of_the_agent() -> None:
    text = (CHECKOUT / "packaging" / "agent" / "ntppool-agent.8").read_text()
    undocumented = {"MONITOR_DEBUG"}  # the same as a level
    assert {name for name in KNOWN if name not in text} == undocumented


def test_every_supported_python_is_inside() -> None:
    known = (CHECKOUT / "pyproject.toml").read_text()
    assert f'requires-python = ">={agent.PYTHONS[0]}"' in known
    minors = [int(python.removeprefix("3.")) for python in agent.PYTHONS]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert monitor.suite_python() in agent.PYTHONS

"""Test the package: it contains every package that runs in production, and no testbed, benchmark or demo."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from testbed.paths import CHECKOUT

SHIPPED = {"schema", "runtime", "agent", "auth", "scorer", "ingest", "selector", "notifier", "api", "ops", "web"}
LEFT_OUT = {"testbed", "bench"}

BUILD = """
import sys
from setuptools.build_meta import build_wheel
build_wheel(sys.argv[1])
"""

# Without the module site, neither the checkout nor its editable installation is on the path.
COMMAND = """
import sys
sys.path[:0] = sys.argv[1:3]
from ops.__main__ import main
sys.exit(main(sys.argv[3:]))
"""


def run(
    program: str, *arguments: object, directory: Path, options: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", program, *map(str, arguments)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of the checkout, since setuptools writes into the directory of the sources."""
    source, built = tmp_path_factory.mktemp("source") / "checkout", tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        CHECKOUT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "tests")
    )
    done = run(BUILD, built, directory=source)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = built.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_has_the_shipped_packages_only(wheel: zipfile.ZipFile) -> None:
    folders = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in folders if not name.endswith(".dist-info")} == SHIPPED
    assert {package for package in LEFT_OUT if (CHECKOUT / package / "__init__.py").is_file()} == LEFT_OUT


def test_the_wheel_has_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {str(path.relative_to(CHECKOUT)) for package in SHIPPED for path in (CHECKOUT / package).rglob("*.py")}
    data = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert modules - names == set()
    found = {path for package, files in data.items() for file in files for path in (CHECKOUT / package).glob(file)}
    assert {str(path.relative_to(CHECKOUT)) for path in found} - names == set()
    others = {path for package in SHIPPED for path in (CHECKOUT / package).rglob("*.*") if path.is_file()} - found
    assert {path.suffix for path in others} <= {".py", ".pyc"}, "every data file is in the wheel"


@pytest.mark.parametrize("with_testbed", [False, True], ids=["package", "checkout"])
def test_the_command_offers_the_demo_where_the_testbed_is(
    wheel: zipfile.ZipFile, tmp_path: Path, *, with_testbed: bool
) -> None:
    wheel.extractall(tmp_path)
    where = CHECKOUT if with_testbed else tmp_path
    libraries = sysconfig.get_path("purelib")
    listed = run(COMMAND, where, libraries, "--help", directory=tmp_path, options=("-I", "-S"))
    assert listed.returncode == 0, listed.stderr
    assert bool(re.search(r"^\s+demo\s", listed.stdout, re.MULTILINE)) is with_testbed
    helped = run(COMMAND, where, libraries, "demo", "--help", directory=tmp_path, options=("-I", "-S"))
    assert helped.returncode == (0 if with_testbed else 2), helped.stderr

"""Test the project as a whole: its lock files, its package names, and the agent's requirements."""

import importlib.metadata
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from testbed.paths import CHECKOUT
from testbed.random_inputs import examples, may_be_slow

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PACKAGES = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
LOCKS = ("agent", "server", "test")
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<marker> ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def lock_lines(lock: str) -> list[str]:
    return (CHECKOUT / "requirements" / f"{lock}.txt").read_text().splitlines()


def pins(lock: str) -> dict[str, str]:
    """Return the pinned versions by canonical name."""
    matches = filter(None, map(PIN.match, lock_lines(lock)))
    return {canonicalize_name(match["name"]): match["version"] for match in matches}


def requirements(lock: str) -> list[Requirement]:
    """Return the requirements of pyproject.toml for a lock file."""
    asked = list(PROJECT["project"]["dependencies"])
    if lock != "agent":
        asked += PROJECT["project"]["optional-dependencies"]["server"]
    if lock == "test":
        asked += PROJECT["dependency-groups"]["test"]
    return [Requirement(text) for text in asked]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_contain_only_pins_and_hashes(lock: str) -> None:
    strange = [line for line in lock_lines(lock) if not (PIN.match(line) or HASH.match(line))]
    assert strange == [], "a lock file names no host, no path and no option"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_pinned_to_an_allowed_version(lock: str) -> None:
    pinned = pins(lock)
    unmet = [
        f"{wanted} (pinned: {pinned.get(canonicalize_name(wanted.name))})"
        for wanted in requirements(lock)
        if not wanted.specifier.contains(pinned.get(canonicalize_name(wanted.name), "0"), prereleases=True)
        or canonicalize_name(wanted.name) not in pinned
    ]
    assert unmet == [], f"requirements/{lock}.txt is behind pyproject.toml; run scripts/lock"


def test_dependencies_of_pinned_packages_are_pinned() -> None:
    pinned = pins("test")
    missing = [
        f"{name} needs {needed}"
        for name in pinned
        if name in INSTALLED
        for needed in map(Requirement, importlib.metadata.requires(name) or [])
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
        if canonicalize_name(needed.name) not in pinned
    ]
    assert missing == []


def test_the_lock_files_agree_with_each_other() -> None:
    agent, server, everything = (pins(lock).items() for lock in LOCKS)
    assert agent <= server <= everything


INSTALLED = {canonicalize_name(dist.metadata["Name"]) for dist in importlib.metadata.distributions()}
OURS = canonicalize_name(PROJECT["project"]["name"])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_dependency_ships_a_module_named_like_ours(package: str) -> None:
    owners = {canonicalize_name(name) for name in importlib.metadata.packages_distributions().get(package, [])}
    assert owners <= {OURS}, f"'{package}' would be shadowed"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_exists_and_has_a_docstring(package: str) -> None:
    assert (CHECKOUT / package / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("program", [*sorted(CHECKOUT.glob("scripts/*")), CHECKOUT / ".ci/run"], ids=lambda p: p.name)
def test_scripts_are_executable(program: Path) -> None:
    assert os.access(program, os.X_OK)
    assert program.read_bytes().startswith(b"#!")


def test_random_input_settings_tolerate_a_slow_machine() -> None:
    assert may_be_slow(settings())
    assert may_be_slow(examples(7, suppress=[HealthCheck.function_scoped_fixture]))
    assert not may_be_slow(settings(deadline=200))
    assert not may_be_slow(settings(suppress_health_check=[HealthCheck.function_scoped_fixture]))

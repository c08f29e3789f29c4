"""``scripts/bootstrap`` takes MySQL from where this system gets its packages, and does without where there is none."""

import subprocess
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parents[2] / "scripts" / "bootstrap"


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A place for programs that are found first; apt knows nothing unless it is told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    _write(programs / "apt-cache", "exit 0")
    _write(programs / "apt-get", "echo 'no network' >&2; exit 100")
    return programs


def _write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def call(fake: Path, commands: str) -> tuple[str, str]:
    """What functions of the script print, and what they say; in a checkout with nothing in it."""
    (fake.parent / "scripts").mkdir(exist_ok=True)
    (fake.parent / ".venv").mkdir(exist_ok=True)
    copy = fake.parent / "scripts" / "bootstrap"
    text = BOOTSTRAP.read_text().replace('\nmain "$@"\n', f"\nPATH={fake}:$PATH\n{commands}\n")
    copy.write_text(text)
    ended = subprocess.run(["bash", str(copy)], capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout, ended.stderr


def targets(*lines: str) -> str:
    return f"[ $1 = indextargets ] && printf '%s\\n' {' '.join(map(repr, lines))}"


@pytest.mark.parametrize(
    "other", ["Debian/Debian-Security bookworm-security http://mirror/sec/", "Google/cloud any http://mirror/other/"]
)
def test_the_mirror_is_the_systems_own(fake: Path, other: str) -> None:
    _write(fake / "apt-get", targets(other, "Debian/Debian stable http://mirror/debian/"))
    found, _ = call(fake, "debian_unstable")
    assert found.startswith("deb [")
    assert found.endswith("target=Packages] http://mirror/debian/ sid main\n")


def test_without_lists_it_is_that_of_the_systems_own_suite(fake: Path) -> None:
    codename = "$(. /etc/os-release && echo ${VERSION_CODENAME:-})"
    _write(fake / "apt-get", f'echo "/ else http://wrong/"; echo "/ {codename} http://mirror/debian/"')
    found, _ = call(fake, "debian_unstable")
    assert found.endswith("] http://mirror/debian/ sid main\n")


def test_a_system_of_another_kind_has_none(fake: Path) -> None:
    _write(fake / "apt-get", targets("Other/Other suite http://mirror/other/"))
    assert call(fake, "debian_unstable || echo none") == ("none\n", "")


def test_where_there_is_none_it_says_so_once_and_goes_on(fake: Path) -> None:
    found, said = call(fake, "mysql_copy; mysql_copy; echo on")
    assert found == "on\n"
    assert said.count("no MySQL server can be had here") == 1
    assert "no network" in said
    assert [path.name for path in (fake.parent / ".venv").iterdir()] == ["mysql-missing"]


def test_after_an_hour_it_is_tried_again(fake: Path) -> None:
    _, said = call(fake, "mysql_copy; touch -d '61 minutes ago' $venv/mysql-missing; mysql_copy")
    assert said.count("no MySQL server can be had here") == 2

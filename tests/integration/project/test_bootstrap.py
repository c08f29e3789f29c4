"""Test that ``scripts/bootstrap`` announces what it installs, and works without MySQL if the system has no source for
it."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from testbed.paths import CHECKOUT

BOOTSTRAP = CHECKOUT / "scripts" / "bootstrap"


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Create a directory for fake programs that are found first; by default, apt knows no packages."""
    programs = tmp_path / "programs"
    programs.mkdir()
    _write(programs / "apt-cache", "exit 0")
    _write(programs / "apt-get", "echo 'no network' >&2; exit 100")
    return programs


def _write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def call(fake: Path, commands: str) -> tuple[str, str]:
    """Call functions of the script in an empty checkout; return stdout and stderr."""
    (fake.parent / "scripts").mkdir(exist_ok=True)
    (fake.parent / ".venv").mkdir(exist_ok=True)
    copy = fake.parent / "scripts" / "bootstrap"
    text = BOOTSTRAP.read_text().replace('\nmain "$@"\n', f"\nPATH={fake}:$PATH\n{commands}\n")
    copy.write_text(text)
    ended = subprocess.run(["bash", str(copy)], capture_output=True, text=True, check=True, timeout=60, umask=0o077)
    return ended.stdout, ended.stderr


def targets(*lines: str) -> str:
    return f"[ $1 = indextargets ] && printf '%s\\n' {' '.join(map(repr, lines))}"


@pytest.mark.parametrize(
    "other", ["Debian/Debian-Security bookworm-security http://mirror/sec/", "Google/cloud any http://mirror/other/"]
)
def test_unstable_is_taken_from_the_mirror_of_the_system(fake: Path, other: str) -> None:
    _write(fake / "apt-get", targets(other, "Debian/Debian stable http://mirror/debian/"))
    found, _ = call(fake, "debian_unstable")
    assert found.startswith("deb [")
    assert found.endswith("target=Packages] http://mirror/debian/ sid main\n")


def test_without_package_lists_the_mirror_of_the_systems_suite_is_used(fake: Path) -> None:
    codename = "$(. /etc/os-release && echo ${VERSION_CODENAME:-})"
    _write(fake / "apt-get", f'echo "/ else http://wrong/"; echo "/ {codename} http://mirror/debian/"')
    found, _ = call(fake, "debian_unstable")
    assert found.endswith("] http://mirror/debian/ sid main\n")


def test_other_distributions_have_no_source_of_debian_unstable(fake: Path) -> None:
    _write(fake / "apt-get", targets("Other/Other suite http://mirror/other/"))
    assert call(fake, "debian_unstable || echo none") == ("none\n", "")


def test_missing_mysql_is_reported_once_and_the_script_continues(fake: Path) -> None:
    found, said = call(fake, "mysql_copy; mysql_copy; echo on")
    assert found == "on\n"
    assert said.count("no MySQL server is available") == 1
    assert "no network" in said
    assert [path.name for path in (fake.parent / ".venv").iterdir()] == ["mysql-missing"]


def test_mysql_is_tried_again_after_an_hour(fake: Path) -> None:
    _, said = call(fake, "mysql_copy; touch -d '61 minutes ago' $venv/mysql-missing; mysql_copy")
    assert said.count("no MySQL server is available") == 2


# ---- messages --------------------------------------------------------------------------------------------------------


def words(said: str) -> str:
    return " ".join(said.split())


def test_first_run_announces_what_it_installs_and_how_long_that_takes(fake: Path) -> None:
    _, said = call(fake, "announce '' 'gcc' 'libjwt-dev libjwt14-dev'")
    assert words(said) == (
        "bootstrap: this run first installs system packages (gcc libjwt-dev), Python packages into .venv "
        "(300 MB) and a MySQL server into .venv (200 MB). This takes one to five minutes; later runs take no time."
    )
    assert max(map(len, said.splitlines())) <= 80
    _, said = call(fake, "announce --demo")
    assert "installs Python packages into .venv (300 MB). This" in words(said)


def test_prints_nothing_if_everything_is_installed(fake: Path) -> None:
    _, said = call(fake, "is_installed() { true; }; announce --demo; announce --python")
    assert said == ""


def test_ordinary_user_gets_the_command_for_an_administrator(fake: Path) -> None:
    _write(fake / "apt-cache", '[ "$2" = libjwt14-dev ] && printf "  Candidate: 1.10.2\n"; exit 0')
    _, said = call(fake, "(refuse_to_install no 'mosquitto' 'libjwt-dev libjwt14-dev' 'gcc') || echo $? >&2")
    assert "As root, run this, then start again:" in words(said)
    assert "\n  apt-get install --no-install-recommends gcc libjwt14-dev mosquitto\n2\n" in said


def test_without_sudo_nothing_is_installed(fake: Path) -> None:
    commands = "have() { [[ $1 != sudo ]]; }; require_supported_system() { :; }; is_root() { false; }; (install no gcc)"
    _, said = call(fake, f"{commands} || echo $? >&2")
    assert said.endswith("  apt-get install --no-install-recommends gcc\n2\n")


def test_demo_needs_neither_databases_nor_packages_for_tests_only(fake: Path) -> None:
    ask = 'have() { false; }; missing_packages "$demo_needs"; echo --; missing_packages "$needs"'
    found, _ = call(fake, ask)
    for_the_demo, _, for_all = found.partition("--\n")
    assert {"mosquitto", "gcc", "make"} <= set(for_the_demo.split())
    assert "mariadb" not in for_the_demo and "mosquitto-clients" not in for_the_demo
    assert set(for_the_demo.split()) < set(for_all.split())
    assert {"mosquitto-clients", "mariadb-server-core"} <= set(for_all.split())


# Shortens the wait for input from a quarter of a minute to a tenth of a second.
QUICK = "read() { builtin read -rt 0.1; };"


def test_long_command_reports_progress_and_keeps_output_and_exit_code(fake: Path) -> None:
    _, said = call(fake, f"{QUICK} working 'installing' sleep 0.5 || true; echo ended >&2")
    assert said.startswith("bootstrap: still installing (15 s)\nbootstrap: still installing (30 s)\n")
    assert said.endswith("ended\n"), "and nothing more, once it has ended"
    found, said = call(fake, "working 'x' sh -c 'echo out; exit 7' || echo $?")
    assert (found, said) == ("out\n7\n", "")


def test_progress_reports_end_if_the_script_is_killed(fake: Path) -> None:
    commands = f"{QUICK} working 'installing' sh -c 'kill -KILL '$$'; exec sleep 0.2'"
    with pytest.raises(subprocess.CalledProcessError) as ended:
        call(fake, commands)
    # Its output is closed at both ends, since call would otherwise still wait for it.
    assert ended.value.returncode == -signal.SIGKILL


# ---- installation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pinned(fake: Path) -> Path:
    """Create the files that define what is installed; return the checkout."""
    (fake.parent / "requirements").mkdir()
    for name in ("requirements/test.txt", "pyproject.toml"):
        (fake.parent / name).write_text("one")
    return fake.parent


def test_packages_are_installed_with_pinned_hashes(fake: Path, pinned: Path) -> None:
    python = pinned / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    _write(python, 'echo "$@"')
    _, said = call(fake, "is_installed() { false; }; usable_environment() { true; }; virtual_environment")
    dependencies, checkout = (line.split() for line in said.splitlines() if line.startswith("-m pip install "))
    assert {"--require-hashes", "requirements/test.txt"} <= set(dependencies)
    assert {"--no-deps", "--no-build-isolation", "-e", "."} <= set(checkout)


@pytest.mark.parametrize("file", ["requirements/test.txt", "pyproject.toml"])
def test_environment_is_rebuilt_if_its_requirements_change(fake: Path, pinned: Path, file: str) -> None:
    before, _ = call(fake, "environment_key")
    (pinned / file).write_text("other")
    after, _ = call(fake, "environment_key")
    assert len(before) == len(after) == 65 and before != after


def test_installation_is_readable_by_all_and_removes_no_package(fake: Path) -> None:
    assert call(fake, "umask") == ("0022\n", "")
    text = BOOTSTRAP.read_text()
    (install,) = [line for line in text.splitlines() if "apt-get -q -o DPkg::Lock" in line]
    assert {"--no-install-recommends", "--no-remove", "-y"} <= set(install.split())


# ---- the second broker -----------------------------------------------------------------------------------------------


def rust(fake: Path, version: str) -> None:
    """Create a cargo of this version, which builds an empty program."""
    build = "mkdir -p $venv/rmqtt-build/release; : >$venv/rmqtt-build/release/rmqtt-broker"
    _write(fake / "cargo", f'case $1 in --version) echo "cargo {version} (x 2026-01-01)" ;; *) {build} ;; esac')
    (fake.parent / "testbed").mkdir(exist_ok=True)
    shutil.copytree(CHECKOUT / "testbed/rmqtt", fake.parent / "testbed/rmqtt", dirs_exist_ok=True)


@pytest.mark.parametrize("version", ["1.63.0", "1.93.1"])
def test_second_broker_needs_a_new_rust(fake: Path, version: str) -> None:
    rust(fake, version)
    _, said = call(fake, "(export venv; second_broker) || echo $? >&2")
    assert f"this is Rust {version}; 1.94 or newer is required" in words(said)
    assert said.endswith("\n2\n")


def test_missing_rust_is_named(fake: Path) -> None:
    _, said = call(fake, "have() { [[ $1 != cargo ]]; }; (second_broker) || echo $? >&2")
    assert "cargo is missing. Install Rust 1.94 or newer" in words(said)


def test_second_broker_is_built_once_and_again_when_its_source_has_changed(fake: Path) -> None:
    rust(fake, "1.95.0")
    (fake.parent / ".venv/bin").mkdir(parents=True)
    build = "(export venv; second_broker); chmod +x .venv/bin/rmqtt-broker"
    _, said = call(fake, f"{build}; {build}")
    assert said.count("building rmqtt from its source") == 1
    _, said = call(fake, f"echo >>testbed/rmqtt/Cargo.toml; {build}")
    assert said.count("building rmqtt from its source") == 1
    assert sorted(path.name for path in (fake.parent / ".venv").iterdir()) == ["bin"], "nothing else is left"

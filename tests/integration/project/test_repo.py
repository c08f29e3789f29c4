"""Test what ``scripts/repo`` publishes, with a real apt, GnuPG, createrepo_c and rpm, and small packages made here.

``scripts/fresh SUITE --packages`` installs the real packages from a repository over HTTP, with apt and dnf.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.paths import CHECKOUT

PROGRAMS = ("apt-ftparchive", "createrepo_c", "rpmsign", "gpg")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)) and "CI" not in os.environ,
    reason="needs what scripts/bootstrap --repo installs",
)


def package(folder: Path, version: str, *formats: str, name: str = "small", **more: object) -> None:
    """Write a package with one file, whose content is its version."""
    folder.mkdir(exist_ok=True)
    (folder / "content").write_text(str(more.pop("content", version)))
    config = folder / "nfpm.json"
    contents = [{"src": str(folder / "content"), "dst": f"/usr/share/{name}"}]
    config.write_text(
        json.dumps(
            {"name": name, "arch": "amd64", "version": version, "version_schema": "none", "maintainer": "A <a@b.c>"}
            | {"description": "small", "license": "MIT", "contents": contents, "mtime": "2026-01-01T00:00:00Z"}
            | more
        )
    )
    nfpm = Path(sys.executable).with_name("nfpm")
    for kind in formats:
        command = [nfpm, "package", "--config", config, "--packager", kind, "--target", folder]
        subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": "1"}, capture_output=True, check=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home of GnuPG with two keys; its path is short, as its sockets need."""
    home = tmp_path_factory.mktemp("k")
    home.chmod(0o700)
    gnupg = {**os.environ, "GNUPGHOME": str(home)}
    for name in ("publisher", "stranger"):
        command = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign"]
        subprocess.run(command, env=gnupg, check=True, timeout=60)
    return home


@dataclass
class Repository:
    """A repository, and the packages to add."""

    folder: Path
    packages: Path
    keys: Path

    def publish(self, *arguments: str, key: str = "publisher") -> subprocess.CompletedProcess[str]:
        """Run ``scripts/repo``."""
        return subprocess.run(
            [CHECKOUT / "scripts" / "repo", "--key", key, "--from", self.packages, *arguments, self.folder],
            env=os.environ | {"GNUPGHOME": str(self.keys)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def apt(self, *arguments: str, key: str = "publisher") -> subprocess.CompletedProcess[str]:
        """Run apt-get as a host of Debian 13 does that trusts this key, with a state of its own."""
        host = self.folder.parent / f"host-{key}"
        for path in ("state/lists/partial", "cache/archives/partial", "etc"):
            (host / path).mkdir(parents=True, exist_ok=True)
        (host / "status").touch()
        keyring = host / "key.asc"
        gnupg = {**os.environ, "GNUPGHOME": str(self.keys)}
        export = ["gpg", "--batch", "--yes", "--armor", "--output", keyring, "--export", key]
        subprocess.run(export, env=gnupg, check=True, timeout=60)
        source = (self.folder / "apt" / "trixie.sources").read_text()
        (host / "etc" / "one.sources").write_text(source.replace("/etc/apt/keyrings/ntppool.asc", str(keyring)))
        options = {
            "Dir::State": host / "state",
            "Dir::State::status": host / "status",
            "Dir::Cache": host / "cache",
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": host / "etc",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
        }
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return subprocess.run(
            ["apt-get", "-q", *given, *arguments], cwd=host, capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def repository(tmp_path: Path, keys: Path) -> Repository:
    return Repository(tmp_path / "repository", tmp_path / "packages", keys)


@pytest.fixture
def published(repository: Repository) -> Repository:
    package(repository.packages, "1.0", "deb", "rpm")
    done = repository.publish("--url", f"file://{repository.folder}")
    assert done.returncode == 0, done.stderr
    return repository


def indexed(repository: Repository, suite: str, architecture: str = "amd64") -> list[tuple[str, str]]:
    """Return name and version of each package that apt would see."""
    index = (repository.folder / f"apt/dists/{suite}/main/binary-{architecture}/Packages").read_text()
    return re.findall(r"^Package: (\S+)$.*?^Version: (\S+)$", index, re.MULTILINE | re.DOTALL)


def test_apt_trusts_the_key_that_signed_and_no_other(published: Repository) -> None:
    refused = published.apt("update", key="stranger")
    assert refused.returncode != 0
    assert "is not signed" in refused.stderr
    accepted = published.apt("update")
    assert (accepted.returncode, accepted.stderr) == (0, "")
    downloaded = published.apt("download", "small")
    assert downloaded.returncode == 0, downloaded.stderr


def test_an_upgrade_is_offered_while_the_version_before_stays(published: Repository) -> None:
    published.apt("update")
    package(published.packages, "1.1", "deb", "rpm")
    done = published.publish("--url", f"file://{published.folder}")
    assert done.returncode == 0, done.stderr
    assert indexed(published, "trixie") == [("small", "1.0"), ("small", "1.1")]
    assert published.apt("update").returncode == 0
    planned = published.apt("install", "--simulate", "small").stdout
    assert "Inst small (1.1 " in planned


def _tamper_with_package(repository: Repository) -> None:
    [deb] = (repository.folder / "apt").rglob("*.deb")
    deb.write_bytes(deb.read_bytes()[:-1] + b"?")


def _tamper_with_index(repository: Repository) -> None:
    for index in (repository.folder / "apt/dists/trixie/main/binary-amd64").rglob("*"):
        if index.is_file():
            index.write_bytes(index.read_bytes()[::-1] + b"?")


def _tamper_with_release(repository: Repository) -> None:
    release = repository.folder / "apt/dists/trixie/InRelease"
    release.write_text(release.read_text().replace("Codename: trixie", "Codename: trixis"))


@pytest.mark.parametrize("tamper", [_tamper_with_package, _tamper_with_index, _tamper_with_release])
def test_apt_refuses_what_was_changed_afterwards(tamper: Callable[[Repository], None], published: Repository) -> None:
    tamper(published)
    done = [published.apt("update"), published.apt("download", "small")]
    assert any(one.returncode != 0 for one in done)
    assert not list((published.folder.parent / "host-publisher").glob("*.deb"))


def test_indexes_of_the_version_before_are_found_by_their_hashes(published: Repository) -> None:
    """A host that has read the old InRelease asks for the index that it names, after the new one was published."""
    binary = published.folder / "apt/dists/trixie/main/binary-amd64"
    before = {path.name for path in (binary / "by-hash/SHA256").iterdir()}
    package(published.packages, "1.1", "deb")
    assert published.publish().returncode == 0
    after = {path.name for path in (binary / "by-hash/SHA256").iterdir()}
    assert before < after
    release = (published.folder / "apt/dists/trixie/InRelease").read_text()
    assert "Acquire-By-Hash: yes" in release
    named = dict(re.findall(r"^ ([0-9a-f]{64}) +\d+ (\S+)$", release, re.MULTILINE))
    assert set(named.values()) == {
        f"main/binary-{architecture}/Packages{suffix}" for architecture in ("amd64", "arm64") for suffix in ("", ".gz")
    }
    assert {sum for sum, path in named.items() if "amd64" in path} <= after


def test_packages_of_one_suite_are_offered_to_it_alone(repository: Repository) -> None:
    package(repository.packages, "1.0", "deb")
    for suite in ("deb12", "deb13"):
        package(repository.packages, "1.0", "deb", name="server", release=f"1~{suite}")
    assert repository.publish().returncode == 0
    assert indexed(repository, "bookworm") == [("small", "1.0"), ("server", "1.0-1~deb12")]
    assert indexed(repository, "trixie") == [("small", "1.0"), ("server", "1.0-1~deb13")]
    assert indexed(repository, "noble") == [("small", "1.0")]
    assert indexed(repository, "trixie", "arm64") == []


def test_rpm_and_its_index_are_signed(published: Repository) -> None:
    folder = published.folder / "rpm" / "x86_64"
    gnupg = {**os.environ, "GNUPGHOME": str(published.keys)}
    index = folder / "repodata" / "repomd.xml"
    subprocess.run(["gpg", "--batch", "--verify", f"{index}.asc", index], env=gnupg, capture_output=True, check=True)
    [rpm] = folder.glob("*.rpm")
    database = ["--dbpath", str(published.folder.parent / "rpmdb")]
    subprocess.run(["rpmkeys", *database, "--import", published.folder / "ntppool.asc"], check=True)
    checked = subprocess.run(
        ["rpmkeys", *database, "--checksig", "--verbose", rpm], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"Signature.*: OK", checked.stdout)
    repo = (published.folder / "rpm" / "ntppool.repo").read_text()
    assert {"gpgcheck=1", "repo_gpgcheck=1"} <= set(repo.splitlines())


def test_a_published_package_never_changes(published: Repository) -> None:
    assert published.publish().returncode == 0, "the same packages again"
    package(published.packages, "1.0", "deb", content="another")
    done = published.publish()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "small_1.0_amd64.deb is published already, with another content" in done.stderr
    package(published.packages, "1.0", "deb")
    package(published.packages, "1.0", "rpm", content="another")
    assert "is published already, with another content" in published.publish().stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which folder?"),
        (["folder"], "--key is missing"),
        (["--key", "nobody", "folder"], "GnuPG has no secret key 'nobody'"),
        (["--key", "publisher", "--url", "example.net", "folder"], "'example.net' is not a URL"),
        (["--key", "publisher", "--from", "nowhere", "folder"], "nowhere has neither deb nor rpm"),
        (["--key"], "--key needs a value"),
        (["--sign", "folder"], "unknown option '--sign'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], said: str, keys: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts" / "repo", *arguments],
        cwd=tmp_path,
        env=os.environ | {"GNUPGHOME": str(keys)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr

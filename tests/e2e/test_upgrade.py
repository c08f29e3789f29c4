"""Test that a pool of the former release is upgraded under load without losing a result.

This is the pool's side: tables, ingest, scorer and selector, one by one. ``scripts/upgrade`` also upgrades and
downgrades agents, API and broker.
"""

from pathlib import Path

import pytest

from bench.upgrade.__main__ import load_names, world
from bench.upgrade.run import UpgradeRun
from testbed.database import DatabaseServer
from testbed.former_release import FormerRelease, NoFormerRelease, unpack
from testbed.site import make_site


@pytest.fixture
def former(tmp_path: Path) -> FormerRelease:
    """Unpack the former release, or skip the test: a clone need not have the whole history."""
    try:
        return unpack(tmp_path / "former")
    except NoFormerRelease as error:
        pytest.skip(str(error))


async def test_upgrade_of_a_pool_under_load_loses_nothing(
    tmp_path: Path, mariadb: DatabaseServer, former: FormerRelease
) -> None:
    directory = tmp_path / "site"
    directory.mkdir()
    site = make_site(directory, mariadb.create("upgrade"))
    run = UpgradeRun(site, world(0), former, load_names(6))
    summary = await run.run()
    assert (run.findings.differences, run.findings.failed, summary.unseen) == ([], [], [])
    assert summary.good
    assert summary.results_stored > 100

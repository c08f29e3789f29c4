"""The proof has teeth: planted mistakes in the rules are noticed by the promises they break.

Each mutation is one small edit of a copy of the selector. The copy is held against the same promises, over the same
worlds, that the real one keeps in the first test; what they let pass has to be noticed by the tables of the rules.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WORLDS = 250
TABLES = sorted(Path(__file__).parent.glob("test_selector_rules_*.py"))

MUTATIONS = {
    "priority ignores bad steps": ("priority.py", "1 + 2 * (1 - ", "1 + 0 * (1 - "),
    "who is gone counts as healthy": ("priority.py", "monitor.gone or monitor.count", "monitor.count"),
    "a swap needs no margin in percent": ("priority.py", "100 * gain >= settings", "999 * gain >= settings"),
    "a swap needs no margin in points": ("priority.py", "gain >= settings.swap_points", "gain >= 1"),
    "the order has no last word": ("priority.py", "        monitor.id,\n", "        0,\n"),
    "a /25 is the same subnet": ("parse.py", "_SUBNET_BITS = {4: 24", "_SUBNET_BITS = {4: 25"),
    "a /22 is the same region": ("parse.py", "_REGION_BITS = {4: 20", "_REGION_BITS = {4: 22"),
    "a monitor conflicts with itself": ("constraints.py", "if other.id == monitor.id:", "if False:"),
    "accounts have one more active place": (
        "constraints.py",
        "return limit if status is PairStatus.ACTIVE else limit + 1",
        "return limit + 1",
    ),
    "violations push nobody out": ("state.py", "violation.unchangeable or not emergency", "violation.unchangeable"),
    "violations push out in an emergency": ("state.py", "violation.unchangeable or not emergency", "True"),
    "the limit is 3": ("model.py", "    limit: int = 2\n", "    limit: int = 3\n"),
    "two blocked ones raise no limit": ("world.py", "len(blocked) > 1", "len(blocked) > 2"),
    "swaps use up no removals": ("world.py", "change.rule != LEAVE_AT_ONCE", "'swap' not in change.rule"),
    "testing does not grow when active places are free": (
        "world.py",
        "max(0, self.settings.target_active - self.active_count)",
        "0",
    ),
    "the blocked stay": ("rules/s01_rule1_leave_at_once.py", "elif entry.state is State.BLOCK", "elif False"),
    "the best leave first": ("rules/s03_rule2_out.py", "in reversed(world.active)", "in list(world.active)"),
    "the floor is one lower": (
        "rules/s03_rule2_out.py",
        "target - world.settings.floor",
        "target - 1 - world.settings.floor",
    ),
    "the last active monitor may leave": (
        "rules/s03_rule2_out.py",
        "world.active_count <= 1",
        "world.active_count <= 0",
    ),
    "a violation is carried into testing": (
        "rules/s03_rule2_out.py",
        "        return PairStatus.CANDIDATE\n    return",
        "        return PairStatus.TESTING\n    return",
    ),
    "8 active are not too many": (
        "rules/s04_rule1_5_too_many_active.py",
        "active_count > world",
        "active_count - 1 > world",
    ),
    "23 results are enough": ("model.py", "results_for_active: int = 24", "results_for_active: int = 23"),
    "globally testing monitors become active": ("eligibility.py", "if not entry.globally_active:", "if False:"),
    "constraints stop promotions in an emergency": ("eligibility.py", "None if world.emergency else would", "would"),
    "constraints stop no promotion": (
        "eligibility.py",
        "None if world.emergency else would",
        "None if True else would",
    ),
    "a swap is judged beside the one that leaves": (
        "rules/s06_rule3_swap.py",
        "obstacle_to_active(without, entry)",
        "obstacle_to_active(world, entry)",
    ),
    "3 candidates enter at once": ("model.py", "testing_promotions: int = 2", "testing_promotions: int = 3"),
    "nothing is reserved": ("rules/s07_rule5_reserve.py", "return _enter(without, winner)", "return world"),
    "half of testing is not for globally active monitors": (
        "reserve.py",
        "    half = world.testing_target -",
        "    half = 0 *",
    ),
    "more than half of testing is for globally active monitors": ("reserve.py", "// 2", "// 3"),
    "reserved places are held for ever": ("reserve.py", "    if not is_overdue(world, holder):", "    if True:"),
    "reserved places are held for 23 h": ("model.py", "timedelta(hours=24)", "timedelta(hours=23)"),
    "who did not get ready comes back the next day": ("model.py", "timedelta(days=7)", "timedelta(days=1)"),
    "who gathers results gives way": ("rules/s09_rule5_swap.py", "        if gathering:\n", "        if False:\n"),
    "who did not get ready swaps in again": (
        "rules/s09_rule5_swap.py",
        "if once_a_week and",
        "if False and",
    ),
    "nobody is exchanged": ("rules/s02_rule3_exchange.py", "    if world.emergency:", "    if True:"),
    "who is exchanged needs not be better": (
        "rules/s02_rule3_exchange.py",
        "or beats(winner.priority, loser.health, loser.priority, world.settings)",
        "or True",
    ),
    "who is exchanged needs no results": (
        "rules/s02_rule3_exchange.py",
        "return winner.monitor.count >=",
        "return 99 >=",
    ),
    "the exchanged is judged beside the one that leaves": (
        "rules/s02_rule3_exchange.py",
        'would_violate(world.move(loser, PairStatus.CANDIDATE, NAME, ""), winner',
        "would_violate(world, winner",
    ),
    "one makes way for a test though few are active": (
        "rules/s02_rule3_exchange.py",
        "world.active_count <= floor",
        "world.active_count <= 1",
    ),
    "one makes way for who was tested lately": (
        "rules/s02_rule3_exchange.py",
        "or not may_try_again(world, winner)",
        "",
    ),
    "who is to leave keeps out who is not better": (
        "rules/s02_rule3_exchange.py",
        "entangled(winner.monitor, loser.monitor) and (\n        out",
        "entangled(winner.monitor, loser.monitor) and (\n        False and out",
    ),
    "the exchanged is tested in a violation": (
        "rules/s02_rule3_exchange.py",
        "PairStatus.CANDIDATE if would_violate(came, loser, PairStatus.TESTING) else PairStatus.TESTING",
        "PairStatus.TESTING",
    ),
    "exchanges while too many are active": (
        "rules/s02_rule3_exchange.py",
        "if world.active_count > world.settings.target_active:",
        "if False:",
    ),
    "the reserve ends with the third active monitor": (
        "reserve.py",
        "return world.active_count <",
        "return 4 + world.active_count <",
    ),
    "the reserve is given back": ("reserve.py", "if len(holders) <= places(world) else", "if False else"),
    "there is no swap into testing": ("rules/s09_rule5_swap.py", "    if not rivals:\n", "    if True:\n"),
    "an empty testing stays empty": ("rules/s12_rule6_no_testing.py", "world.testing_count > 0", "True"),
    "3 paused pairs are freed": ("model.py", "freed_per_review: int = 2", "freed_per_review: int = 3"),
    "paused pairs are looked at after 7 h": ("model.py", "timedelta(hours=8)", "timedelta(hours=7)"),
    "a violation is always new": ("review.py", "now if stored.violation_type != kind else", "now if True else"),
    "a look at a paused pair is not noted": ("review.py", "    if violation is not None:\n", "    if False:\n"),
}


def run(source: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the selector in ``source``, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{ROOT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=source,  # first on the path of what is run with -m
        capture_output=True,
        text=True,
        timeout=100,
    )


def promises_kept(source: Path) -> subprocess.CompletedProcess[str]:
    return run(source, "fixtures.selection_proof", str(WORLDS))


def tables_kept(source: Path) -> subprocess.CompletedProcess[str]:
    return run(
        source, "pytest", "-q", "-x", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), *map(str, TABLES)
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "selector", tmp_path / "selector", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_selector_keeps_its_promises_in_all_worlds_of_this_test(copy: Path) -> None:
    result = promises_kept(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    result = tables_kept(copy)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_a_planted_mistake_is_noticed(mistake: str, copy: Path) -> None:
    name, old, new = MUTATIONS[mistake]
    file = copy / "selector" / name
    text = file.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in {name} any more"
    file.write_text(text.replace(old, new))
    result = promises_kept(copy)
    if result.returncode == 0:
        result = tables_kept(copy)
    assert result.returncode == 1, f"nobody noticed that {mistake}: {result.stdout}{result.stderr}"
    assert result.stdout.startswith("world ") or "AssertionError" in result.stdout, result.stdout + result.stderr

"""Plant mistakes in the rules and check that tests detect them: ``python -m testbed.selection.mutations [WORD ...]``.

Each mutation is one small edit in a copy of the selector. The copy must break a promise in some random world, or fail a
table test of ``tests/unit/selector/rules``. Words select the mutations whose names contain one of them. Exit code 1 if
a mistake was not detected.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from testbed.paths import CHECKOUT

WORLDS: Final = 250
TABLES: Final = tuple(
    f"{CHECKOUT}/tests/unit/selector/rules/test_{table}.py" for table in ("entering", "exchange", "leaving")
)

MUTATIONS: Final = {
    "priority ignores bad steps": ("rules/ranking.py", "1 + 2 * (1 - ", "1 + 0 * (1 - "),
    "who is gone counts as healthy": ("rules/ranking.py", "monitor.gone or monitor.count", "monitor.count"),
    "a swap needs no margin in percent": ("rules/ranking.py", "100 * gain >= settings", "999 * gain >= settings"),
    "a swap needs no margin in points": ("rules/ranking.py", "gain >= settings.swap_points", "gain >= 1"),
    "the order has no last word": ("rules/ranking.py", "        monitor.id,\n", "        0,\n"),
    "a /25 is the same subnet": ("rows.py", "_SUBNET_BITS = {4: 24", "_SUBNET_BITS = {4: 25"),
    "a /22 is the same region": ("rows.py", "_REGION_BITS = {4: 20", "_REGION_BITS = {4: 22"),
    "a monitor conflicts with itself": ("rules/constraints.py", "if other.id == monitor.id:", "if False:"),
    "accounts have one more active place": (
        "rules/constraints.py",
        "return limit if status is PairStatus.ACTIVE else limit + 1",
        "return limit + 1",
    ),
    "violations push nobody out": (
        "rules/assess.py",
        "violation.unchangeable or not emergency",
        "violation.unchangeable",
    ),
    "violations push out in an emergency": ("rules/assess.py", "violation.unchangeable or not emergency", "True"),
    "the limit is 3": ("rules/model.py", "    limit: int = 2\n", "    limit: int = 3\n"),
    "two blocked ones raise no limit": ("rules/world.py", "len(blocked) > 1", "len(blocked) > 2"),
    "swaps use up no removals": ("rules/world.py", "change.rule != LEAVE_AT_ONCE", "'swap' not in change.rule"),
    "testing does not grow when active places are free": (
        "rules/world.py",
        "max(0, self.settings.target_active - self.active_count)",
        "0",
    ),
    "the blocked stay": ("rules/leave_at_once.py", "elif entry.state is State.BLOCK", "elif False"),
    "the best leave first": ("rules/leave_gradually.py", "in reversed(world.active)", "in list(world.active)"),
    "the floor is one lower": (
        "rules/leave_gradually.py",
        "target - world.settings.floor",
        "target - 1 - world.settings.floor",
    ),
    "the last active monitor may leave": (
        "rules/leave_gradually.py",
        "world.active_count <= 1",
        "world.active_count <= 0",
    ),
    "a violation is carried into testing": (
        "rules/leave_gradually.py",
        "        return PairStatus.CANDIDATE\n    return",
        "        return PairStatus.TESTING\n    return",
    ),
    "8 active are not too many": (
        "rules/too_many.py",
        "active_count > world",
        "active_count - 1 > world",
    ),
    "23 results are enough": ("rules/model.py", "results_for_active: int = 24", "results_for_active: int = 23"),
    "globally testing monitors become active": ("rules/eligibility.py", "if not entry.globally_active:", "if False:"),
    "constraints stop promotions in an emergency": (
        "rules/eligibility.py",
        "None if world.emergency else would",
        "would",
    ),
    "constraints stop no promotion": (
        "rules/eligibility.py",
        "None if world.emergency else would",
        "None if True else would",
    ),
    "a swap is judged beside the one that leaves": (
        "rules/swap_into_active.py",
        "obstacle_to_active(without, entry)",
        "obstacle_to_active(world, entry)",
    ),
    "3 candidates enter at once": ("rules/model.py", "testing_promotions: int = 2", "testing_promotions: int = 3"),
    "nothing is reserved": ("rules/reserved_places.py", "return _enter(without, winner)", "return world"),
    "half of testing is not for globally active monitors": (
        "rules/reserved_places.py",
        "    half = world.testing_target -",
        "    half = 0 *",
    ),
    "more than half of testing is for globally active monitors": ("rules/reserved_places.py", "// 2", "// 3"),
    "reserved places are held for ever": (
        "rules/reserved_places.py",
        "    if not is_overdue(world, holder):",
        "    if True:",
    ),
    "reserved places are held for 23 h": ("rules/model.py", "timedelta(hours=24)", "timedelta(hours=23)"),
    "who did not get ready comes back the next day": ("rules/model.py", "timedelta(days=7)", "timedelta(days=1)"),
    "who gathers results gives way": ("rules/swap_into_testing.py", "        if gathering:\n", "        if False:\n"),
    "who did not get ready swaps in again": (
        "rules/swap_into_testing.py",
        "if once_a_week and",
        "if False and",
    ),
    "nobody is exchanged": ("rules/exchange.py", "    if world.emergency:", "    if True:"),
    "who is exchanged needs not be better": (
        "rules/exchange.py",
        "or beats(winner.priority, loser.health, loser.priority, world.settings)",
        "or True",
    ),
    "who is exchanged needs no results": (
        "rules/exchange.py",
        "return winner.monitor.count >=",
        "return 99 >=",
    ),
    "the exchanged is judged beside the one that leaves": (
        "rules/exchange.py",
        'would_violate(world.move(loser, PairStatus.CANDIDATE, NAME, ""), winner',
        "would_violate(world, winner",
    ),
    "one makes way for a test though few are active": (
        "rules/exchange.py",
        "world.active_count <= floor",
        "world.active_count <= 1",
    ),
    "one makes way for who was tested lately": (
        "rules/exchange.py",
        "or not may_try_again(world, winner)",
        "",
    ),
    "who is to leave keeps out who is not better": (
        "rules/exchange.py",
        "entangled(winner.monitor, loser.monitor) and (\n        out",
        "entangled(winner.monitor, loser.monitor) and (\n        False and out",
    ),
    "the exchanged is tested in a violation": (
        "rules/exchange.py",
        "PairStatus.CANDIDATE if would_violate(came, loser, PairStatus.TESTING) else PairStatus.TESTING",
        "PairStatus.TESTING",
    ),
    "exchanges while too many are active": (
        "rules/exchange.py",
        "if world.active_count > world.settings.target_active:",
        "if False:",
    ),
    "the reserve ends with the third active monitor": (
        "rules/reserved_places.py",
        "return world.active_count <",
        "return 4 + world.active_count <",
    ),
    "the reserve is given back": ("rules/reserved_places.py", "if len(holders) <= places(world) else", "if False else"),
    "there is no swap into testing": ("rules/swap_into_testing.py", "    if not rivals:\n", "    if True:\n"),
    "labels count beyond the margin of a swap": (
        "rules/preference.py",
        "best.healthy and not beats(best.priority, other.health, other.priority, settings)",
        "best.healthy and other.healthy",
    ),
    "labels count without the setting": (
        "rules/preference.py",
        "    if not world.settings.prefer_healthy:\n        return ranked",
        "    if False:\n        return ranked",
    ),
    "troubled monitors come first": ("rules/preference.py", "    TROUBLED = 2", "    TROUBLED = -1"),
    "an empty testing stays empty": ("rules/promotions.py", "world.testing_count > 0", "True"),
    "3 paused pairs are freed": ("rules/model.py", "freed_per_review: int = 2", "freed_per_review: int = 3"),
    "paused pairs are looked at after 7 h": ("rules/model.py", "timedelta(hours=8)", "timedelta(hours=7)"),
    "a violation is always new": ("rules/review.py", "now if stored.violation_type != kind else", "now if True else"),
    "a look at a paused pair is not noted": ("rules/review.py", "    if violation is not None:\n", "    if False:\n"),
}


def main(words: list[str]) -> int:
    """Plant every mutation, and print those that were not detected."""
    chosen = {name: edit for name, edit in MUTATIONS.items() if not words or any(word in name for word in words)}
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory)
        if not _kept(_copy(source)):
            print("the unmodified selector breaks a promise: run the tests first", file=sys.stderr)
            return 1
        unnoticed = [name for name, edit in chosen.items() if not _noticed(source, *edit)]
    for name in unnoticed:
        print(f"not detected: {name}")
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} mistakes were detected")
    return 1 if unnoticed else 0


def _noticed(source: Path, name: str, old: str, new: str) -> bool:
    file = _copy(source) / "selector" / name
    text = file.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"{old!r} is no longer in selector/{name}")
    file.write_text(text.replace(old, new), encoding="utf-8")
    return not _kept(source)


def _copy(source: Path) -> Path:
    shutil.rmtree(source / "selector", ignore_errors=True)
    shutil.copytree(CHECKOUT / "selector", source / "selector", ignore=shutil.ignore_patterns("__pycache__"))
    return source


def _kept(source: Path) -> bool:
    """Return whether the selector in ``source`` keeps its promises and passes the table tests."""
    pytest = ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-c", f"{CHECKOUT}/pyproject.toml", *TABLES)
    return _succeeds(source, "testbed.selection.proof", str(WORLDS)) and _succeeds(source, *pytest)


def _succeeds(source: Path, *command: str) -> bool:
    environ = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    # With -m, the working directory comes first on the import path.
    run = subprocess.run([sys.executable, "-m", *command], env=environ, cwd=source, capture_output=True, timeout=100)
    return run.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

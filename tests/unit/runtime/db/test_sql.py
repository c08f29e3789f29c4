"""Test that every name in hand-written SQL is quoted; see ``testbed.fixtures.sql``."""

from functools import cache
from pathlib import Path

import pytest

from testbed.fixtures.sql import hand_written, unquoted
from testbed.paths import CHECKOUT

SOURCES = sorted(
    path
    for package in CHECKOUT.glob("*/__init__.py")
    if package.parent.name != "tests"
    for path in package.parent.rglob("*.py")
)


@cache
def statements() -> list[tuple[Path, int, str]]:
    """Return the file, line and text of each hand-written statement."""
    return [(path.relative_to(CHECKOUT), line, text) for path in SOURCES for line, text in hand_written(path)]


def test_names_are_quoted() -> None:
    found = statements()
    assert len(found) > 30, "there are that many"
    assert [(str(path), line, words) for path, line, text in found if (words := unquoted(text))] == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT `stored` FROM `t` WHERE `a`.`b` = :stored AND `c` = 'it''s' AND `d` = %s", []),
        ("SELECT stored FROM `t`", ["stored"]),
        ("INSERT INTO `t` (`a`, rank) VALUES (:a, 1e-3)", ["rank"]),
        ("UPDATE `t` AS pair SET pair.`a` = 1", ["pair", "pair"]),
        ("FROM JSON_TABLE(:rows, '$[*]' COLUMNS (`a` INT PATH '$[0]')) AS added", ["added"]),
        ("ALTER TABLE monitors MODIFY `tls_name` VARCHAR(255) CHARACTER SET ASCII", ["monitors"]),
    ],
)
def test_unquoted_names_are_found(statement: str, words: list[str]) -> None:
    assert unquoted(statement) == words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('x = f"SELECT `{a}` FROM `t` {rest}"', []),
        ('x = f"SELECT {self.column.name} FROM `t`"', ["self", "column", "name"]),
        ('x = sa.text(f"""\n  UPDATE `t` AS q SET {names}\n""")', ["q"]),
    ],
)
def test_statements_are_found_in_code(source: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(source)
    [(_, text)] = hand_written(path)
    assert unquoted(text) == words

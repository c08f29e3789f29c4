"""Test that foreign text cannot move the cursor, break a line, or hide in a command's output."""

import ast
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.printable import printable, printable_json
from testbed.paths import CHECKOUT

DANGEROUS = (
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",  # marks, embeddings, isolates
    *"\u2028\u2029\x85",  # line breaks
    *"\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u115f\u1160\u3164\uffa0\ufe0f\u180e\u2800",  # zero-width or invisible
    *"\ud800\udfff\udc80",
    *"\u00a0\u2003\u3000",
    *"\ue000\ufffe\U000e0001\U000e0100\U000f0000",
)
ANY = st.text(st.characters(codec=None, exclude_categories=()) | st.sampled_from(DANGEROUS))
VISIBLE = "Hello, wörld: 日本 Ελλάδα עברית é 😀 ~!@\\"


@pytest.mark.parametrize("char", DANGEROUS, ids=ascii)
def test_dangerous_characters_are_escaped(char: str) -> None:
    shown = printable(f"a{char}b")
    assert shown.isascii() and shown.isprintable()
    assert shown.startswith("a\\") and shown.endswith("b")
    assert ast.literal_eval(f"'{shown}'") == f"a{char}b", "it can be looked up"


def test_ordinary_text_is_unchanged() -> None:
    assert printable(VISIBLE) == VISIBLE
    assert printable("") == ""


def test_escapes_follow_python_syntax() -> None:
    assert printable("\x1b[2J\r\n\t\x9b\u202e\U000e0001") == r"\x1b[2J\r\n\t\x9b\u202e\U000e0001"


@given(ANY)
@example("\x1b]0;owned\x07")
def test_any_text_becomes_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and len(shown.splitlines()) <= 1
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not set(shown) & set(DANGEROUS)
    shown.encode()  # no surrogates
    assert printable(shown) == shown


JSON = st.recursive(
    ANY | st.integers() | st.none() | st.booleans(), lambda inner: st.dictionaries(ANY, inner), max_leaves=10
)


@given(JSON)
def test_json_is_lossless_and_printable_ascii(value: object) -> None:
    text = printable_json(value)
    assert text.isascii() and text.isprintable()
    assert json.loads(text) == value


def writes(path: Path) -> list[int]:
    """Return the numbers of the lines that print or write to stdout or stderr."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("print", "typer.echo", "typer.secho", "click.echo", "rich.print") or called in (
            f"sys.{stream}.{way}" for stream in ("stdout", "stderr") for way in ("write", "writelines", "buffer.write")
        ):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("package", ["agent", "ops"])
def test_only_the_output_module_writes_to_the_terminal(package: str) -> None:
    # The demo displays its own processes in its own table.
    paths = [path for path in sorted((CHECKOUT / package).rglob("*.py")) if "demo" not in path.parts]
    assert len(paths) > 20
    assert [str(path.relative_to(CHECKOUT)) for path in paths if writes(path)] == [f"{package}/output.py"]

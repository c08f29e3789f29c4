"""Test the QR code: it shows every module, and only where a person can see the whole of it."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.qr_code import BORDER, coloured, draw, fits, half_blocks, modules_of, shows_blocks

URL = "https://manage.pool.example/manage/monitors/confirm/0123456789abcdef0123456789abcdef"
HALVES = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}


class Terminal(io.StringIO):
    encoding = "UTF-8"

    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def fileno(self) -> int:
        return 99


@given(
    st.integers(1, 9).flatmap(
        lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=9)
    )
)
def test_half_blocks_show_every_module(modules: list[list[bool]]) -> None:
    lines = half_blocks(modules)
    shown = [list(row) for line in lines for row in zip(*(HALVES[char] for char in line), strict=True)]
    assert shown[: len(modules)] == modules
    assert all(not any(row) for row in shown[len(modules) :])


def test_code_has_a_border_and_its_corners() -> None:
    modules = modules_of(URL)
    assert len(modules) == len(modules[0]) == 37 + 2 * BORDER
    assert not any(modules[0]) and not any(row[0] for row in modules)
    assert modules[BORDER][BORDER : BORDER + 7] == [True] * 7, "the finder pattern"


@pytest.mark.parametrize(
    ("encoding", "terminal", "can"),
    [
        ("UTF-8", "xterm", True),
        ("utf8", "linux", True),
        ("ISO-8859-1", "xterm", False),
        (None, "xterm", False),
        ("utf-8", "dumb", False),
        ("utf-8", "", False),
    ],
)
def test_only_a_terminal_in_utf_8_shows_blocks(encoding: str | None, terminal: str, can: bool) -> None:
    assert shows_blocks(encoding, terminal) is can


def test_code_must_fit() -> None:
    lines = ["x" * 40] * 20
    assert fits(lines, 40, 23)
    assert not fits(lines, 39, 24) and not fits(lines, 40, 22)
    assert fits(half_blocks(modules_of(URL)), 80, 24), "the address of a registration, on the smallest usual terminal"


def test_code_is_drawn_dark_on_light_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((80, 60)))
    shown, environ = Terminal(), {"TERM": "xterm"}
    draw(URL, shown, environ)
    assert shown.getvalue() == coloured(half_blocks(modules_of(URL)))
    assert all(line.startswith("\x1b[38;5;16;48;5;231m") and line.endswith("\x1b[0m") for line in
               shown.getvalue().splitlines())  # fmt: skip
    for terminal, size in ((Terminal(terminal=False), (80, 60)), (Terminal(), (80, 20)), (Terminal(), (20, 60))):
        monkeypatch.setattr(os, "get_terminal_size", lambda number, size=size: os.terminal_size(size))
        draw(URL, terminal, environ)
        assert terminal.getvalue() == ""

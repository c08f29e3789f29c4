"""Show the state while the demo runs, on stderr: a live table on a terminal, otherwise a line every few seconds."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scorer.policy import HANDED_OUT_ABOVE
from testbed.demo.ledger import ServerState, State
from testbed.demo.verdict import WIDE, wrapped
from testbed.world import Server, World

_LINE_EVERY: Final = 5.0
"""Seconds between two lines without a terminal."""


class Display:
    """Show the state; a context manager, since the terminal must be restored."""

    def __init__(self, world: World, seconds: float | None) -> None:
        self._world = world
        self._seconds = seconds
        self._began = time.monotonic()
        self._line_at = 0.0
        self._live = Live(console=Console(stderr=True), auto_refresh=False) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self) -> None:
        """Count the time from now on: the system is running."""
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a message above the table; indented lines, such as those of logs, stay as they are."""
        for number, line in enumerate(text.splitlines()):
            self.show_line(wrapped(line, "" if number else "demo: ", "      ") if line[:1] != " " else line)

    def show_line(self, text: str) -> None:
        """Print lines without wrapping, so that they can be copied."""
        if self._live is not None:
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")

    def show(self, state: State) -> None:
        """Show the current state; without a terminal, every few seconds only."""
        elapsed = time.monotonic() - self._began
        if self._live is not None:
            self._live.update(state_table(self._world, state, heading(state, elapsed, self._seconds)), refresh=True)
        elif elapsed >= self._line_at:
            self._line_at = elapsed + _LINE_EVERY
            self.say(state_line(state, elapsed))

    def finish(self, state: State) -> None:
        """Show the whole state at the end."""
        if self._live is not None:
            self.show(state)
            return
        table = state_table(self._world, state, heading(state, time.monotonic() - self._began, None))
        Console(stderr=True, width=WIDE).print(table)


def heading(state: State, elapsed: float, seconds: float | None) -> str:
    """Return the table's title."""
    of = "" if seconds is None else f" of {seconds:g}"
    return f"{elapsed:.0f}{of} s, {state.committed} results, {state.changes} status changes; offsets in ms"


def state_line(state: State, elapsed: float) -> str:
    """Return the state in one line."""
    scores = " ".join(f"{_score(server.score)}({server.active}+{server.testing})" for server in state.servers)
    so_far = f"{elapsed:.0f} s, {state.committed} results, {state.changes} status changes"
    return f"{so_far}; score(active+testing): {scores}"


def state_table(world: World, state: State, title: str) -> Table:
    """Make the table of servers with actual behaviour, measurements (offsets in ms), score and monitors; 80 columns
    wide."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
    for column in ("server", "behaviour"):
        table.add_column(column, no_wrap=True)
    for column in ("offset", "measured", "score", "act", "test", "cand"):
        table.add_column(column, justify="right", no_wrap=True)
    states = {server.ip: server for server in state.servers}
    for server in world.servers:
        table.add_row(*_cells(server, states[server.ip]))
    return table


def _cells(server: Server, state: ServerState) -> Sequence[str | Text]:
    style = "" if state.score is None else ("green" if state.score > HANDED_OUT_ABOVE else "red")
    return (
        server.ip,
        server.what,
        _offset(server.true_offset),
        _offset(state.measured),
        Text(_score(state.score), style=style),
        str(state.active),
        str(state.testing),
        str(state.candidate),
    )


def _offset(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:+.3f}"


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"

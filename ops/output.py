"""Write the output of commands: aligned for people, separated by tabs for other programs, or as JSON.

All output passes through this module and therefore through :func:`runtime.printable.printable`: much of it was written
by agents, or by anyone who can publish to the broker.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal

from runtime.printable import printable, printable_json
from schema.names import short_name

Cell = str | int | float | bool | datetime | date | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Rules for fitting a table to a terminal."""

    lesser: tuple[str, ...] = ()
    """Columns to omit, in this order, while the table is wider than the terminal."""
    names: tuple[str, ...] = ()
    """Columns with full names of monitors, which are cut to the short name."""
    folded: tuple[str, ...] = ()
    """Columns whose cells are broken between words, into several lines, before a column is omitted."""


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], layout: Layout | None = None, *, as_json: bool = False
) -> None:
    """Print rows under their headings, fitted to the terminal. In a pipe, print every column, one line per row, with
    cells separated by tabs. As JSON, print a list of objects."""
    if as_json:
        write_json(rows_as_dicts(columns, rows))
    elif sys.stdout.isatty():
        _aligned(columns, rows, layout or Layout())
    else:
        for row in [columns, *rows]:
            write_row(row)


def write_row(row: Sequence[Cell]) -> None:
    """Write one row of a table for other programs."""
    sys.stdout.write("\t".join(printable(as_text(cell)) for cell in row) + "\n")


def show_fields(fields: Sequence[tuple[str, Cell]], *, as_json: bool = False) -> None:
    """Print a name and a value per line. As JSON, print one object."""
    if as_json:
        write_json(fields_as_dict(fields))
        return
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        write(f"{name:<{width}}  {as_text(value)}".rstrip())


def fields_as_dict(fields: Sequence[tuple[str, Cell]]) -> dict[str, Cell]:
    """Return the fields under their JSON names."""
    return {_key(name): value for name, value in fields}


def rows_as_dicts(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[dict[str, Cell]]:
    """Return the rows of a table under their JSON names."""
    return [dict(zip(map(_key, columns), row, strict=True)) for row in rows]


def write(line: str) -> None:
    """Write one line to stdout, with unsafe characters escaped."""
    sys.stdout.write(printable(line) + "\n")


def write_lines(text: str) -> None:
    """Write a text of several lines; the line breaks are trusted, the content need not be."""
    for line in text.removesuffix("\n").split("\n"):
        write(line)


def write_json(value: Any) -> None:
    """Write ``value`` as JSON on one line. Times are RFC 3339 in UTC, days ISO 8601."""
    sys.stdout.write(printable_json(value, default=_json_time) + "\n")


def write_bytes(payload: bytes) -> None:
    """Write untrusted bytes to stdout unchanged: to a file or a pipe, never to a terminal."""
    sys.stdout.flush()
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()


def confirmed(question: str) -> bool | None:
    """Ask the person at the terminal for confirmation; return ``None`` if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_error(line: str, *, program: str = "ntppool-monitor") -> None:
    """Write one line to stderr, with the program's name."""
    sys.stderr.write(f"{program}: {printable(line)}\n")


def explain(text: str) -> None:
    """Write our own text of several lines to stderr."""
    sys.stderr.write("".join(printable(line) + "\n" for line in text.split("\n")))


def cope_with_any_character() -> None:
    """Escape characters that the terminal's encoding lacks, since they would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_text(cell: Cell) -> str:
    """Return a cell as text; times are UTC."""
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "no"
        case datetime():
            return cell.strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{cell:.1f}"
        case tuple():
            return ", ".join(cell)
    return str(cell)


def changed(who: str, name: str, before: object, after: object) -> str:
    """Describe a change of a value in one line."""
    return f"{who}: {name}: was {value_text(before)}, is {value_text(after)}"


def value_text(value: object) -> str:
    """Return a value of the ledger in words."""
    match value:
        case None | "":
            return "not set"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value)) or "none"
    return str(value)


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _json_time(value: object) -> str:
    match value:
        case datetime():
            # The ledger's times are in UTC and have no zone.
            return value.isoformat() + ("Z" if value.tzinfo is None else "")
        case date():
            return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be represented in JSON")


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[Cell]], layout: Layout) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = {
        column: [_short(row[index], column in layout.names) for row in rows] for index, column in enumerate(columns)
    }
    numeric = {column: all(_is_number(row[index]) for row in rows) for index, column in enumerate(columns)}
    for column in layout.lesser:
        if sum(_widths(shown, layout).values()) > console.width:
            del shown[column]
    widths = _widths(shown, layout)
    room, last = console.width - sum(widths.values()), next(reversed(widths), None)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        justify: Literal["left", "right"] = "right" if numeric[column] else "left"
        widest = widths[column] - (0 if column == last else _GAP) + max(0, room) if column in layout.folded else None
        table.add_column(column, justify=justify, overflow="fold", min_width=len(column), max_width=widest)
    for texts in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, texts))  # Text: the ledger's content is not markup
    console.print(table)


_GAP: Final = 2
"""Spaces between two columns."""


def _widths(shown: Mapping[str, Sequence[str]], layout: Layout) -> dict[str, int]:
    """Return the least width of each column with the gap after it; only cells of folded columns are broken."""

    def least(name: str, texts: Sequence[str]) -> int:
        parts = [word for text in texts for word in text.split()] if name in layout.folded else texts
        return max(len(name), *map(len, parts), 0)

    widths = {name: least(name, texts) + _GAP for name, texts in shown.items()}
    if widths:
        widths[next(reversed(widths))] -= _GAP
    return widths


def _short(cell: Cell, is_name: bool) -> str:
    """Return a cell for people: a time to the minute, a name without its domain."""
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%d %H:%M")
    text = printable(as_text(cell))
    return short_name(text) if is_name else text


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))

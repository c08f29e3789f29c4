"""How commands show what they found: aligned for people, tab-separated when the output goes to another program."""

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | int | float | bool | datetime | None


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Rows under their headings. Into a pipe: a line each, cells separated by tabs, nothing cut."""
    if sys.stdout.isatty():
        _aligned(columns, rows)
        return
    for row in [columns, *rows]:
        write("\t".join(as_text(cell).replace("\t", " ").replace("\n", " ") for cell in row))


def show_fields(fields: Sequence[tuple[str, Cell]]) -> None:
    """One line each: name and value."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        write(f"{name:<{width}}  {as_text(value)}".rstrip())


def write(line: str) -> None:
    """One line on stdout."""
    sys.stdout.write(line + "\n")


def as_text(cell: Cell) -> str:
    """A cell as it is shown; times are UTC."""
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "no"
        case datetime():
            return cell.strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{cell:.1f}"
    return str(cell)


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(as_text(cell)) for cell in row))  # Text: what is in the ledger is no markup
    Console().print(table)

"""Draw an address as a QR code in a terminal, so that a telephone can open it."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TextIO

BORDER: Final = 2
"""Light modules around the code. The standard wants four, but readers need two, and terminals are small."""

_BESIDE: Final = 3
"""Lines of a terminal that must stay visible beside the code: the address, and what the host waits for."""

# Black on white whatever the terminal's own colours are: many readers fail on an inverted code.
_COLOURS: Final = "\x1b[38;5;16;48;5;231m"
_NO_COLOURS: Final = "\x1b[0m"
_HALVES: Final[Mapping[tuple[bool, bool], str]] = {
    (False, False): " ",
    (True, False): "\N{UPPER HALF BLOCK}",
    (False, True): "\N{LOWER HALF BLOCK}",
    (True, True): "\N{FULL BLOCK}",
}
"""By whether the upper and the lower module are dark."""


def half_blocks(modules: Sequence[Sequence[bool]]) -> list[str]:
    """Return the lines that show a matrix of modules, two rows a line; ``True`` is dark. A missing row is light."""
    rows = [*modules, [False] * len(modules[0])] if len(modules) % 2 else modules
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(_HALVES[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]


def fits(lines: Sequence[str], columns: int, rows: int) -> bool:
    """Return whether a terminal of this size shows the lines and what is said around them."""
    return len(lines) + _BESIDE <= rows and all(len(line) <= columns for line in lines)


def shows_blocks(encoding: str | None, terminal: str) -> bool:
    """Return whether a terminal can show the code: it is in UTF-8, and understands colours.

    Args:
        encoding: of the standard output.
        terminal: the value of ``TERM``.
    """
    return (encoding or "").lower().replace("-", "").replace("_", "") == "utf8" and terminal not in ("", "dumb")


def modules_of(text: str) -> list[list[bool]]:
    """Return the modules of the smallest code for this text, with its border."""
    import segno  # not needed by a run without a terminal, nor by any other command

    code = segno.make_qr(text, error="l", boost_error=False)
    return [[bool(module) for module in row] for row in code.matrix_iter(border=BORDER)]


def draw(text: str, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Draw ``text`` on the terminal; do nothing where it cannot be shown whole, or is not read by a person."""
    out = sys.stdout if stream is None else stream
    if not out.isatty() or not shows_blocks(out.encoding, environ.get("TERM", "")):
        return
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except OSError:
        return
    lines = half_blocks(modules_of(text))
    if fits(lines, columns, rows):
        out.write(coloured(lines))
        out.flush()


def coloured(lines: Iterable[str]) -> str:
    """Return the lines as text for a terminal, dark on light."""
    return "".join(f"{_COLOURS}{line}{_NO_COLOURS}\n" for line in lines)

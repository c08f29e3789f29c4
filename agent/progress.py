"""Show on stderr what a command waits for."""

import os
import sys

from runtime.printable import printable


class Progress:
    """A line on stderr that is rewritten in place; on something else than a terminal, each text is shown once."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{printable(text)[: _width()]}")
        elif (key := text.partition(" (")[0]) != self._shown:
            self._shown = key
            sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _width() -> int:
    try:
        return max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
    except OSError:
        return 79

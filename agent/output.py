"""Write the output of the agent's command line, one line at a time, safe for a terminal.

Servers and broker choose reference ids, error texts and reasons. They are shown unchanged, except that control
characters are escaped.
"""

import os
import sys
from typing import Any

from runtime.log import crash_text, stderr_is_journal
from runtime.printable import printable, printable_json


class Failed(Exception):
    """A command failed; the message, shown as the only output about it, says why and what would help."""


def write(line: str) -> None:
    """Write one line to stdout, with unsafe characters escaped."""
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()  # Python buffers output to a pipe, whose reader may wait for this line


def write_json(value: Any) -> None:
    """Write ``value`` as JSON on one line: exact, and in ASCII without control characters."""
    sys.stdout.write(printable_json(value) + "\n")


def print_error(line: str) -> None:
    """Write one line to stderr, with the program's name, after all output."""
    sys.stdout.flush()
    sys.stderr.write(f"ntppool-agent: {printable(line)}\n")


def print_crash(error: BaseException) -> None:
    """Write the traceback of a defect to stderr, where the interpreter would write it with whatever it quotes."""
    sys.stderr.write(crash_text(error))


def warn(line: str) -> None:
    """Write a warning to stderr; with its syslog priority if that is the journal."""
    sys.stdout.flush()
    sys.stderr.write(f"{'<4>' if stderr_is_journal() else ''}ntppool-agent: warning: {printable(line)}\n")


def confirmed(question: str) -> bool:
    """Ask the person at the terminal; return whether the answer is yes, which nothing else than ``y`` or ``yes`` is."""
    sys.stdout.write(f"{printable(question)} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


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

"""How the agent's command line writes: one line at a time, made fit for a terminal.

Servers and broker choose reference ids, error texts and reasons. They are shown as they came, but for characters that a
terminal would obey.
"""

import sys
from typing import Any

from runtime.log import stderr_is_journal
from runtime.printable import printable, printable_json


def write(line: str) -> None:
    """One line on stdout, whatever is in it."""
    sys.stdout.write(printable(line) + "\n")


def write_json(value: Any) -> None:
    """``value`` on one line: exact, and in ASCII without control characters."""
    sys.stdout.write(printable_json(value) + "\n")


def print_error(line: str) -> None:
    """One line on stderr, with the program's name."""
    sys.stderr.write(f"ntppool-agent: {printable(line)}\n")


def warn(line: str) -> None:
    """One line on stderr about what does not stop the command; with its priority where that is the journal."""
    sys.stderr.write(f"{'<4>' if stderr_is_journal() else ''}ntppool-agent: warning: {printable(line)}\n")

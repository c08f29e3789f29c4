"""Write the output of the agent's command line, one line at a time, safe for a terminal.

Servers and broker choose reference ids, error texts and reasons. They are shown unchanged, except that control
characters are escaped.
"""

import sys
from typing import Any

from runtime.log import stderr_is_journal
from runtime.printable import printable, printable_json


class Failed(Exception):
    """A command failed; the message, shown as the only output about it, says why and what would help."""


def write(line: str) -> None:
    """Write one line to stdout, with unsafe characters escaped."""
    sys.stdout.write(printable(line) + "\n")


def write_json(value: Any) -> None:
    """Write ``value`` as JSON on one line: exact, and in ASCII without control characters."""
    sys.stdout.write(printable_json(value) + "\n")


def print_error(line: str) -> None:
    """Write one line to stderr, with the program's name."""
    sys.stderr.write(f"ntppool-agent: {printable(line)}\n")


def warn(line: str) -> None:
    """Write a warning to stderr; with its syslog priority if that is the journal."""
    sys.stderr.write(f"{'<4>' if stderr_is_journal() else ''}ntppool-agent: warning: {printable(line)}\n")

r"""Escape untrusted text for terminals and logs.

Names, versions, error texts and answers come from agents, servers, and all clients that can write to the broker or the
ledger. A terminal interprets some of their characters: it would move the cursor, rewrite lines above, set the
clipboard, or reorder names. All output of commands passes :func:`printable` where it is written (``ops.output``,
``agent.output``), and so do all log messages.
"""

import re
from collections.abc import Callable
from typing import Any, Final

_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks by category that are nevertheless invisible, so that two names that differ in them look alike."""


def printable(text: str) -> str:
    r"""Return ``text`` on one line, with escapes such as ``\x1b`` and ``\u202e`` for invisible characters.

    These are control characters (C0, DEL, C1), line and paragraph separators, all spaces except the plain one,
    directional marks and isolates, zero-width characters, surrogates, and private-use or unassigned code points.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() and not _IGNORABLE.match(char) else _escape(char) for char in text)


def _escape(char: str) -> str:
    r"""Escape a character as Python does: ``\n``, ``\x1b``, ``\u202e``, ``\U000e0001``."""
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def printable_json(value: Any, *, default: Callable[[object], Any] | None = None) -> str:
    """Encode ``value`` as JSON on one line, exactly, in ASCII without control characters.

    Args:
        value: a value that JSON can represent.
        default: converts values of other types.
    """
    import json  # not needed by every process that logs; the agent's daemon must stay small

    # The only control character that JSON does not escape.
    return json.dumps(value, default=default).replace("\x7f", "\\u007f")

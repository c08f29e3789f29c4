r"""Text from strangers, made fit for a terminal.

Names, versions, error texts and answers are written by agents, servers and whoever can write to the broker or the
ledger. A terminal obeys some of their characters: it would move the cursor, rewrite lines above, set the clipboard, or
show two names in each other's order. Whatever a command shows passes :func:`printable`, in the one place where it is
written (``ops.output``, ``agent.output``), and so does what is logged.
"""

import re
from collections.abc import Callable
from typing import Any, Final

_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks by their category, and yet without any width or ink: two names that differ in them look alike."""


def printable(text: str) -> str:
    r"""``text`` on one line, every character visible; the others are shown as escapes such as ``\x1b`` and ``\u202e``.

    Escaped are controls (C0, DEL, C1), separators of lines and paragraphs, all spaces but the plain one, marks and
    isolates of direction, characters without a width, surrogates, and code points for private use or without a meaning.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() and not _IGNORABLE.match(char) else _escape(char) for char in text)


def _escape(char: str) -> str:
    r"""As Python and JSON write it, so that it can be looked up: ``\n``, ``\x1b``, ``\u202e``, ``\U000e0001``."""
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def printable_json(value: Any, *, default: Callable[[object], Any] | None = None) -> str:
    """``value`` as JSON on one line: exact, and in ASCII without control characters.

    Args:
        value: what JSON can hold.
        default: turns what JSON has no type for into what it has.
    """
    import json  # not in every process that logs: the agent's daemon is to stay small

    # The one control character that JSON lets stand for itself.
    return json.dumps(value, default=default).replace("\x7f", "\\u007f")

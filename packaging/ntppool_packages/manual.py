"""Make a program's manual page from a text in ``packaging/`` and from the program's own help."""

import re
from datetime import datetime

from ntppool_packages.commands import Command, Option
from ntppool_packages.source import ROOT


def manual(path: str, program: Command, version: str, time: datetime) -> str:
    """Return the page in the language of man(7).

    Args:
        path: of the text below ``packaging/``, in which ``@OPTIONS@`` and ``@COMMANDS@`` stand for the lists.
    """
    text = (ROOT / "packaging" / path).read_text(encoding="utf-8")
    filled = {
        "@VERSION@": version,
        "@DATE@": f"{time:%Y-%m-%d}",
        "@OPTIONS@": "\n".join(map(_option, program.options)),
        "@COMMANDS@": "\n".join(_command(one) for one in program.all() if one.path and not one.commands),
    }
    for mark, value in filled.items():
        text = text.replace(mark, value)
    return text


def _command(command: Command) -> str:
    lines = [".TP", f".B {_escaped(command.words)}", _paragraphs(command.help)]
    for option in command.options:
        lines += [".RS", _option(option), ".RE"]
    return "\n".join(lines)


def _option(option: Option) -> str:
    return f".TP\n.B {_escaped(option.words)}\n{_paragraphs(option.help)}"


def _paragraphs(text: str) -> str:
    return "\n.IP\n".join(_escaped(paragraph) for paragraph in text.split("\n\n"))


def _escaped(text: str) -> str:
    r"""Return the text so that man shows it as it is: no line begins with a request, hyphens are those to copy.

    Code between backticks is shown in bold.
    """
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = re.sub(r"`+([^`]+)`+", r"\\fB\1\\fR", escaped)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped

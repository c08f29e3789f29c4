"""Make a program's completion for bash: tables of its commands and options, so that completing starts no program."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Final

from ntppool_packages.commands import Command, Option
from ntppool_packages.source import ROOT

_CHOICES: Final[Mapping[str, str]] = {
    "--env": "prod test devel",
    "--deploy-env": "prod test devel",
    "-e": "prod test devel",
    "--log-level": "debug info warning error",
}
"""Values of options whose type does not name them."""

_HELP: Final = "--help"
"""Every command has it."""


def bash_completion(name: str, program: Command, anywhere: Iterable[str] = ()) -> str:
    """Return the script for the program ``name``.

    Args:
        anywhere: names of options of the program that may also be written after a command.
    """
    common = [one for one in program.options if set(one.names) & set(anywhere)]
    commands = {each.path: " ".join(one.path.split()[-1] for one in each.commands) for each in program.all()}
    offered = {each.path: [*each.options, *(common if each.path else [])] for each in program.all()}
    values = {
        f"{path} {option_name}": _takes(option, option_name)
        for path, options in offered.items()
        for option in options
        for option_name in option.names
        if option.metavar
    }
    tables = {
        "@NAME@": name,
        "@FUNCTION@": f"_{name.replace('-', '_')}",
        "@COMMANDS@": _table({path or "/": words for path, words in commands.items() if words}),
        "@OPTIONS@": _table({path or "/": _names(options) for path, options in offered.items()}),
        "@VALUES@": _table(values),
    }
    script = (ROOT / "packaging" / "completion.bash").read_text(encoding="utf-8")
    for mark, text in tables.items():
        script = script.replace(mark, text)
    return script


def _takes(option: Option, name: str) -> str:
    return _CHOICES.get(name) or " ".join(option.choices) or ("file" if option.is_file else "any")


def _names(options: Iterable[Option]) -> str:
    return " ".join([name for option in options for name in option.names if name.startswith("--")] + [_HELP])


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(f"        [{shlex.quote(key)}]={shlex.quote(text)}" for key, text in rows.items())

"""Read the commands of a program from its code: for its manual page and its completion, which so are always right."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Any

import typer
import typer.main


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or an argument if it has no names."""

    names: tuple[str, ...]
    metavar: str
    """Of its value; empty for a switch."""
    help: str
    is_file: bool = False
    choices: tuple[str, ...] = ()
    """The values that it takes, if they are few."""

    @property
    def words(self) -> str:
        """How it is written, such as ``-e, --env TEXT``."""
        return " ".join(filter(None, (", ".join(self.names), self.metavar)))


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and those below it."""

    path: str
    """Its words after the program's name; empty for the program."""
    help: str
    parameters: tuple[Option, ...]
    commands: tuple["Command", ...]

    @property
    def options(self) -> tuple[Option, ...]:
        """The parameters that have names."""
        return tuple(one for one in self.parameters if one.names)

    @property
    def words(self) -> str:
        """How it is called, with its arguments."""
        arguments = [one.metavar for one in self.parameters if not one.names]
        return " ".join((self.path, *arguments))

    def all(self) -> Iterable["Command"]:
        """Yield this command and all below it."""
        yield self
        for one in self.commands:
            yield from one.all()


def read_commands(app: typer.Typer, without: Container[str] = ()) -> Command:
    """Return the commands of a program, except those that a package does not have."""
    program = _read(typer.main.get_command(app), "")
    return replace(program, commands=tuple(one for one in program.commands if one.path not in without))


def _read(found: Any, path: str) -> Command:
    below = getattr(found, "commands", {})
    return Command(
        path,
        _plain(found.help or ""),
        tuple(_option(one) for one in found.params if not getattr(one, "hidden", False)),
        tuple(_read(one, f"{path} {name}".strip()) for name, one in below.items() if not one.hidden),
    )


def _option(found: Any) -> Option:
    is_option = found.param_type_name == "option"
    kind = found.type_descriptor
    is_file = kind.is_path or kind.is_file
    takes_value = not (is_option and (found.is_flag or found.count))
    names = (*found.opts, *found.secondary_opts) if is_option else ()
    metavar = (found.metavar or (_kind(kind) if is_option else found.name)).upper() if takes_value else ""
    if not is_option and found.nargs == -1 and not metavar.endswith("..."):
        metavar += "..."
    choices = tuple(str(getattr(one, "value", one)) for one in kind.choices or ()) if kind.is_choice else ()
    return Option(names, metavar, _plain(found.help or ""), is_file, choices)


def _kind(kind: Any) -> str:
    """Return a word for the values of an option that names none."""
    if kind.is_path or kind.is_file:
        return "FILE"
    return "NUMBER" if kind.is_ranged or kind.annotation in (int, float) else "TEXT"


def _plain(text: str) -> str:
    r"""Return the text with one line per paragraph; ``\b`` and ``\f`` are marks for click."""
    paragraphs = text.partition("\f")[0].replace("\b", "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

"""Define ``ntppool-monitor settings``: manage the settings that workers read from the ledger while they run."""

from typing import Annotated

import typer

from ops.context import JSON_OPTION, globals_of, open_ledger
from ops.output import write, write_json

_SETTING = typer.Argument(metavar="SETTING", help="Name, such as monitors.interval_active.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Manage the settings of running workers.", no_args_is_help=True)
    app.add_typer(group, name="settings")

    @group.command()
    def show(
        context: typer.Context,
        setting: Annotated[str | None, _SETTING] = None,
        as_json: Annotated[bool, JSON_OPTION] = False,
    ) -> None:
        """Show all settings, or one: value, meaning, bounds, default."""
        from ops.settings import find_setting, setting_lines, show_settings
        from runtime.db.engine import reading

        only = None if setting is None else find_setting(setting)
        with open_ledger(globals_of(context).for_a_person()) as engine, reading(engine) as connection:
            found = show_settings(connection, only)
        if as_json:
            write_json(found)
            return
        for line in setting_lines(found):
            write(line)

    @group.command("set")
    def set_(
        context: typer.Context,
        setting: Annotated[str, _SETTING],
        value: Annotated[str, typer.Argument(metavar="VALUE", help="Value, such as 9m or 7.")],
    ) -> None:
        """Change a setting; workers apply it within a minute."""
        from ops.settings import as_given, find_setting, set_setting
        from runtime.db.engine import transaction, utc_now

        wanted = find_setting(setting)
        text, now = as_given(wanted, value), utc_now().replace(microsecond=0)
        with open_ledger(globals_of(context).for_a_person()) as engine:
            write(transaction(engine, lambda connection: set_setting(connection, wanted, text, now)))

    @group.command()
    def reset(context: typer.Context, setting: Annotated[str, _SETTING]) -> None:
        """Reset a setting to its default.

        Or reset all settings of a key, such as monitors, even if its row is invalid.
        """
        from ops.settings import find_setting, reset_key, reset_setting
        from runtime.db.engine import transaction

        wanted = find_setting(setting) if "." in setting else None
        with open_ledger(globals_of(context).for_a_person()) as engine:
            if wanted is None:
                write(transaction(engine, lambda connection: reset_key(connection, setting)))
            else:
                write(transaction(engine, lambda connection: reset_setting(connection, wanted)))

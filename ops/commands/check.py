"""Define ``ntppool-monitor check``: measure an address now, by several monitors."""

from typing import Annotated

import typer

from ops.context import globals_of, open_ledger
from ops.errors import OperatorError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def check(
        context: typer.Context,
        address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The address to measure.")],
        from_: Annotated[
            list[str] | None,
            typer.Option(
                "--from",
                metavar="NAME",
                help="Full or short name of a monitor that measures; repeatable. Default: some near, some far.",
            ),
        ] = None,
        monitors: Annotated[int, typer.Option(metavar="N", min=1, max=12, help="How many monitors to choose.")] = 6,
        samples: Annotated[int, typer.Option(metavar="N", min=1, max=3, help="Packets of each.")] = 3,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each monitor.")] = False,
    ) -> None:
        """Measure an address now, by several monitors, and print what each finds as soon as it is known.

        Exit code 1 if no monitor measured, or one that was named with --from did not.
        """
        import asyncio

        from ops.check import Shown, make_plan, make_wanted, run_check

        settings = globals_of(context).for_a_person()
        env = settings.deployment_mode
        wanted = make_wanted(env, address, from_ or [], monitors, samples)
        with open_ledger(settings) as engine:
            plan = make_plan(engine, env, wanted)
        shown = Shown(plan, as_json=as_json)
        measured = asyncio.run(run_check(settings, plan, shown.show))
        shown.end(plan, measured)
        asked = len(plan.chosen) + len(plan.unfit)
        if not measured or (from_ and measured < asked):
            raise OperatorError(f"{wanted.target.ip}: {measured} of {asked} monitors measured")

"""Define ``ntppool-monitor check``: measure an address now, or trace the routes to it, by several monitors."""

from typing import TYPE_CHECKING, Annotated

import typer

from ops.context import globals_of, open_ledger
from ops.errors import OperatorError

if TYPE_CHECKING:
    from api.ops.check import Finding


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
        monitors: Annotated[
            int | None,
            typer.Option(metavar="N", min=1, max=12, help="How many monitors to choose; default: 6, for routes 3."),
        ] = None,
        samples: Annotated[
            int | None, typer.Option(metavar="N", min=1, max=3, help="Packets of each; default: 3.")
        ] = None,
        traceroute: Annotated[
            bool, typer.Option("--traceroute", help="Trace the routes to it, and keep them.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each monitor.")] = False,
    ) -> None:
        """Measure an address now, by several monitors, and print what each finds as soon as it is known.

        With --traceroute, each also traces the route to it. Routes to servers are kept for 15 days
        ('ntppool-monitor servers routes').

        Exit code 1 if no monitor measured, or one that was named with --from did not.
        """
        import asyncio

        from ops.check import Keeping, Shown, make_plan, make_wanted, run_check

        settings = globals_of(context).for_a_person()
        env = settings.deployment_mode
        wanted = make_wanted(env, address, from_ or [], monitors, samples, route=traceroute)
        with open_ledger(settings) as engine:
            plan = make_plan(engine, env, wanted)
            shown, keeping = Shown(plan, as_json=as_json), Keeping(engine, plan)

            def on_finding(finding: "Finding") -> None:
                keeping.keep(finding)
                shown.show(finding)

            found = asyncio.run(run_check(settings, plan, on_finding))
        shown.end(found, keeping.kept)
        asked = len(plan.chosen) + len(plan.unfit)
        if not found or (from_ and found < asked):
            done = "traced the route" if traceroute else "measured"
            raise OperatorError(f"{wanted.target.ip}: {found} of {asked} monitors {done}")

"""Show the routes to a server that the ledger keeps."""

import sys
from datetime import datetime

from sqlalchemy.engine import Connection

from api.ops.kept_routes import KeptRoute, read_routes
from api.ops.messages import kept_route_fields
from ops.output import as_text, write, write_json, write_row
from ops.route_lines import ROUTE_COLUMNS, route_lines, route_rows
from schema.names import short_name


def show_routes(connection: Connection, server_id: int, since: datetime, limit: int, *, as_json: bool) -> None:
    """Print the latest routes to a server, newest last: for people, in a pipe a row per packet, or as JSON."""
    found = read_routes(connection, server_id, limit, since)[::-1]
    if as_json:
        write_json([kept_route_fields(one) for one in found])
    elif sys.stdout.isatty():
        for one in found:
            _show(one)
        if not found:
            write("no routes")
    else:
        write_row(("at", "monitor", *ROUTE_COLUMNS))
        for one in found:
            for row in route_rows(one.traces):
                write_row((one.traced_on, one.monitor, *row))


def _show(kept: KeptRoute) -> None:
    answer = "answered NTP" if kept.answered else "did not answer NTP"
    write(f"{as_text(kept.traced_on)}  {short_name(kept.monitor)}: {kept.ip} {answer}")
    for line in route_lines(kept.traces):
        write(line)
